"""``python -m epi_bench``: the command line."""

from epi_bench.cli.app import main

if __name__ == "__main__":
    main()
