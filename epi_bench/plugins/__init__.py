"""Names to objects: registries, plugins and the options of what they bring."""
