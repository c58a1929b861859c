"""Embedded bus backends."""
