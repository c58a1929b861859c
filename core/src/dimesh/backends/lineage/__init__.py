"""Embedded lineage sinks."""
