"""Figures for TensorBoard."""
