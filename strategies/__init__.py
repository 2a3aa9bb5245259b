"""Built-in strategies, one file each; installed as ``epi_bench.strategies``."""
