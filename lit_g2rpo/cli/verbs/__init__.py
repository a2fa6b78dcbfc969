"""One file for each verb of the project's own."""
