"""Where the rows of a data set lie, and reading them."""
