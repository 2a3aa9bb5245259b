"""What came of runs, as numbers and tables; nothing here imports torch."""
