"""Evaluation suites' ways of reading free text, with their quirks, so that figures are comparable with theirs."""
