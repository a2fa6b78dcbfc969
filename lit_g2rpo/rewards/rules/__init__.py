"""Rules: how right an answer is, with one file per kind of answer."""
