"""Figures for loggers that can show them."""
