"""Tasks and suites that are described by TOML files."""
