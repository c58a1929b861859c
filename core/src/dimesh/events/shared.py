"""What most events of one type and sender have in common, prepared once instead of once per event.

A broker's message carries the CloudEvents attributes of its event. Most events have no attribute beyond the usual ones, and
differ from others of their type and sender in id, time and trace alone. A bus asks :class:`SharedAttributes` for the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from dimesh.events.event import Event
from dimesh.events.fields import NO_HEADERS

T = TypeVar("T")

_MOST_KINDS: Final = 10_000


class SharedAttributes(Generic[T]):
    """A cache of what a bus prepares for events that have only the usual attributes.

    Args:
        prepare: creates the shared part from the first event of its kind.
    """

    __slots__ = ("_prepare", "_prepared")

    def __init__(self, prepare: Callable[[Event], T]) -> None:
        self._prepare = prepare
        self._prepared: dict[tuple[object, ...], T] = {}

    def get(self, event: Event) -> T | None:
        """Return the shared part of an event; None if the event has headers, tags or optional metadata of its own."""
        m = event.metadata
        if (
            event.headers is not NO_HEADERS
            or m.span_id is not None
            or m.parent_span_id is not None
            or m.target_pillar is not None
            or m.target_agent is not None
            or m.correlation_id is not None
            or m.causation_id is not None
            or m.tags
        ):
            return None
        kind = (
            event._event_type,
            m.source_pillar,
            m.source_agent,
            m.priority,
            event.schema_version,
            event.content_type,
        )
        found = self._prepared.get(kind)
        if found is None:
            if len(self._prepared) >= _MOST_KINDS:
                self._prepared.clear()
            found = self._prepared[kind] = self._prepare(event)
        return found
