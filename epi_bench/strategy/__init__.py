"""The contract for strategies, and tools to build them from."""
