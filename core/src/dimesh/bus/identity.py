"""What makes two deliveries the same event."""

from __future__ import annotations

from dimesh.bus import headers as h
from dimesh.events.event import Event


def identity_of(event: Event) -> str:
    """The event id; with the count of redrives, since an event that was sent back on purpose is no repeat."""
    redrives = event.headers.get(h.REDRIVES) if event.headers else None
    if redrives is None:
        return event.metadata.event_id
    return f"{event.metadata.event_id}#{redrives if isinstance(redrives, str) else redrives.hex()}"
