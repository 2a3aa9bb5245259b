"""The contract for data sets: rows to examples, answers to scores."""
