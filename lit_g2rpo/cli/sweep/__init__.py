"""Several runs from one command line: the list of runs, what remains to do, and their processes."""
