"""One run from its specification to its record, and many of them."""
