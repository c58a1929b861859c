"""Conditions on the events of a topic: filters, an id, a trace, and the values of fields."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import asdict

from dimesh.errors import CodecError, ConfigurationError, DimeshError, PayloadError
from dimesh.events import strictjson
from dimesh.events.event import Event
from dimesh.events.names import show
from dimesh.spi.bus import EVERYTHING, Delivery, Filter

_CONDITION: Final = re.compile(r"([^=!]+)(!?=)(.*)\Z", re.DOTALL)
_ROOTS: Final = ("payload", "metadata", "headers", "event_type", "schema_version")
_DEEPEST: Final = 32
_ABSENT: Final = object()


@dataclass(frozen=True, slots=True)
class FieldCondition:
    """The condition that a field has a value, or does not have it."""

    path: tuple[str, ...]
    """The names from the event to the field, such as ``("payload", "order")``. An index selects an element of a list."""
    text: str
    """The value as it was typed. A number, true, false, null or a JSON text equals that JSON value; any other text itself."""
    negated: bool = False
    """Whether the condition holds for events whose field is absent or has another value."""

    @classmethod
    def parse(cls, text: str) -> FieldCondition:
        """Parse ``payload.order=7`` or ``payload.status!=paid``.

        Raises:
            ConfigurationError: the text is neither, or does not begin with a part of an event.
        """
        parts = _CONDITION.match(text)
        path = tuple(parts[1].strip().split(".")) if parts is not None else ()
        if parts is None or path[0] not in _ROOTS or len(path) > _DEEPEST:
            raise ConfigurationError(
                f"{show(text)} is not a condition: write FIELD=VALUE or FIELD!=VALUE, where FIELD is "
                f"event_type or begins with payload., metadata. or headers., such as payload.order=7"
            )
        return cls(path, parts[3], parts[2] == "!=")

    def holds(self, event: Event) -> bool:
        """Return whether the event meets the condition."""
        return _equal(_find(_root(event, self.path[0]), self.path[1:]), self.text) is not self.negated


@dataclass(frozen=True, slots=True)
class Search:
    """The events that an operator wants to see. All parts must hold; what is left out holds for every event."""

    filter: Filter = EVERYTHING
    ids: frozenset[str] = frozenset()
    """Event ids, one of which the event must have."""
    trace: str | None = None
    """The trace id of the event."""
    conditions: tuple[FieldCondition, ...] = ()

    @property
    def everything(self) -> bool:
        """Whether every record is wanted, also one that is not an event."""
        return self == Search()

    def wants(self, delivery: Delivery) -> bool:
        """Return whether the record is wanted. The event is decoded only if the filter lets the record pass."""
        record = delivery.record
        if not self.filter.wants(record.event_type, record.pillar, record.priority):
            return False
        if not (self.ids or self.trace is not None or self.conditions):
            return True
        try:
            event = record.event
        except CodecError:
            return False
        metadata = event.metadata
        return (
            (not self.ids or metadata.event_id in self.ids)
            and (self.trace is None or metadata.trace_id == self.trace)
            and all(condition.holds(event) for condition in self.conditions)
        )


def _root(event: Event, name: str) -> Any:
    if name == "payload":
        try:
            return event.payload
        except PayloadError:
            return _ABSENT
    if name == "metadata":
        return {**asdict(event.metadata), "timestamp": event.metadata.timestamp.isoformat()}
    if name == "headers":
        return event.headers
    return event.event_type.value if name == "event_type" else event.schema_version


def _find(value: Any, path: Sequence[str]) -> Any:
    """Return the value at the end of a path. A name of the value may itself contain dots, as headers do."""
    if not path:
        return value
    if isinstance(value, Mapping):
        for size in range(1, len(path) + 1):
            inner = value.get(".".join(path[:size]), _ABSENT)
            if inner is not _ABSENT and (found := _find(inner, path[size:])) is not _ABSENT:
                return found
    elif isinstance(value, list) and path[0].isascii() and path[0].isdigit() and len(path[0]) < 10:
        if int(path[0]) < len(value):
            return _find(value[int(path[0])], path[1:])
    return _ABSENT


def _equal(found: Any, text: str) -> bool:
    if found is _ABSENT:
        return False
    if isinstance(found, str) and found == text:
        return True
    try:
        wanted = strictjson.loads(text.encode())
    except (DimeshError, UnicodeEncodeError):
        return False
    if isinstance(found, (int, float)) and isinstance(wanted, (int, float)):
        return isinstance(found, bool) is isinstance(wanted, bool) and found == wanted
    return type(found) is type(wanted) and bool(found == wanted)
