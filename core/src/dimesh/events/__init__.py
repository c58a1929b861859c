"""Events: types, metadata, payload and encodings. The common names can be imported from here."""

from __future__ import annotations

from dimesh.events.event import Event
from dimesh.events.metadata import EventMetadata
from dimesh.events.topics import Topics
from dimesh.events.types import EventPriority, EventType

__all__ = ["Event", "EventMetadata", "EventPriority", "EventType", "Topics"]
