"""Strategies that stock Lightning does not bring."""
