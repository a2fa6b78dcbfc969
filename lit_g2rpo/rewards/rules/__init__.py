"""Rules: how right an answer is, one file for each kind of answer."""
