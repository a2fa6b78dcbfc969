"""Figures for loggers that show them."""
