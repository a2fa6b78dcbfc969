"""Hooks for devices and strategies, and communication between ranks."""
