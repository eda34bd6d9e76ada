"""One benchmark for every method and data set."""
