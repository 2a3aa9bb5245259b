"""What the command line, notebooks and scripts call."""
