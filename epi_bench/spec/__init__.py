"""What determines a run: its specification, the defaults, the stream, and their TOML form."""
