"""The model that is fine-tuned: its files, loading, batches and losses."""
