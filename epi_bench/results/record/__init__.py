"""One run's record, and the folder that holds runs."""
