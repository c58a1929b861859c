"""JSON Schema, the schema language of the core."""
