"""Embedded change sources."""
