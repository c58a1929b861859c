"""The sqlite bus: the durable log of one machine."""
