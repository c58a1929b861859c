"""The event bus engine. Everything that a bus promises is decided here; backends only move records."""
