"""Built-in tasks, one file each; installed as ``epi_bench.tasks``."""
