"""Embedded stores for the state of change capture."""
