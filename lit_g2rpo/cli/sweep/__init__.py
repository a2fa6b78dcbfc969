"""Several runs from one command line: which they are, what is left of them to do, and their processes."""
