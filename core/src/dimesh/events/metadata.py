"""Who sent an event, when, how urgent it is and what it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Final, NoReturn

import msgspec
from msgspec.structs import force_setattr

from dimesh.errors import EventError
from dimesh.events.ids import new_event_id, new_trace_id
from dimesh.events.names import show
from dimesh.events.types import EventPriority

MAX_FIELD: Final = 1_024
"""Most characters of one text field."""
MAX_TAGS: Final = 100
"""Most tags of one event."""

UTC: Final = timezone.utc  # noqa: UP017 - the very object that msgspec puts into decoded times


class FrozenTags(dict[str, str]):
    """Tags of an event: a dict that cannot be changed. ``dict(tags)`` makes a copy that can."""

    __slots__ = ()

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("events are immutable: copy the tags with dict(tags) and make a new event")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse  # type: ignore[assignment]

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return (FrozenTags, (dict(self),))


NO_TAGS: Final = FrozenTags()


def _utc_now() -> datetime:
    return datetime.now(UTC)


class EventMetadata(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """Metadata of one event. Immutable; ``msgspec.structs.replace(metadata, priority=…)`` makes a variant.

    The field order is the wire order of the compact header: new fields go to the end, with a default.

    Raises:
        EventError: a field is not of its type, longer than 1,024 characters, or the time has no zone.
    """

    event_id: str = msgspec.field(default_factory=new_event_id)
    """Unique for ever; a repeat of the same event keeps it. Time-ordered when generated."""
    trace_id: str = msgspec.field(default_factory=new_trace_id)
    """What the event belongs to, across agents. 32 hex digits when generated (W3C trace context)."""
    span_id: str | None = None
    parent_span_id: str | None = None
    source_pillar: str = ""
    source_agent: str = ""
    target_pillar: str | None = None
    target_agent: str | None = None
    timestamp: datetime = msgspec.field(default_factory=_utc_now)
    """When it happened: aware, UTC, microseconds."""
    priority: EventPriority = EventPriority.NORMAL
    correlation_id: str | None = None
    """The conversation: a reply carries the id of the request here."""
    causation_id: str | None = None
    """The id of the event that caused this one."""
    tags: dict[str, str] = NO_TAGS

    def __post_init__(self) -> None:
        # One join sees most events through: all are strings, ASCII, and short even together.
        try:
            text = "".join(
                (
                    self.event_id,
                    self.trace_id,
                    self.source_pillar,
                    self.source_agent,
                    self.span_id or "",
                    self.parent_span_id or "",
                    self.target_pillar or "",
                    self.target_agent or "",
                    self.correlation_id or "",
                    self.causation_id or "",
                )
            )
        except TypeError:
            text = ""
        if not text.isascii() or not 0 < len(text) <= MAX_FIELD:
            self._check_fields()
        if not self.event_id:
            raise EventError("event_id is empty; leave it out to have one generated")
        timestamp = self.timestamp
        if timestamp.__class__ is not datetime or timestamp.tzinfo is not UTC:
            force_setattr(self, "timestamp", _as_utc(timestamp))
        if self.priority.__class__ is not EventPriority:
            force_setattr(self, "priority", _as_priority(self.priority))
        if self.tags.__class__ is not FrozenTags:
            force_setattr(self, "tags", _as_tags(self.tags))

    def _check_fields(self) -> None:
        for value in (self.event_id, self.trace_id, self.source_pillar, self.source_agent):
            _check_text(value)
        for optional in (
            self.span_id,
            self.parent_span_id,
            self.target_pillar,
            self.target_agent,
            self.correlation_id,
            self.causation_id,
        ):
            if optional is not None:
                _check_text(optional)

    @property
    def ordering_key(self) -> str:
        """``<pillar>:<agent>`` of the sender: one agent's events stay in order."""
        return f"{self.source_pillar}:{self.source_agent}"

    def to_headers(self) -> dict[str, str]:
        """The metadata as string headers, for transports that have nothing else.

        Keys are the field names with dashes; absent fields are left out; tags are ``tag-<name>``. Where the
        trace and span ids are W3C ones, ``traceparent`` is there too.
        """
        from dimesh.events.headers import to_headers

        return to_headers(self)

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> EventMetadata:
        """The reverse of :meth:`to_headers`; unknown headers are left alone, ``traceparent`` fills in
        trace and parent span where they are not given.

        Raises:
            EventError: a header's value does not fit its field.
        """
        from dimesh.events.headers import from_headers

        return from_headers(headers)


def _check_text(value: object) -> None:
    if not isinstance(value, str):
        raise EventError(f"event metadata: {show(value)} is {type(value).__name__}, a string is needed")
    if len(value) > MAX_FIELD:
        raise EventError(f"event metadata: {show(value)} is longer than {MAX_FIELD} characters")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise EventError(f"event metadata: {show(value)} holds a lone surrogate") from error


def _as_utc(value: object) -> datetime:
    if not isinstance(value, datetime):
        raise EventError(f"timestamp is {type(value).__name__}, an aware datetime is needed")
    if value.tzinfo is None or value.utcoffset() is None:
        raise EventError("timestamp has no time zone: use datetime.now(timezone.utc)")
    return value.astimezone(UTC)


def _as_priority(value: object) -> EventPriority:
    try:
        return EventPriority(value)
    except ValueError:
        names = ", ".join(p.value for p in EventPriority)
        raise EventError(f"{show(value)} is not a priority: use one of {names}") from None


def _as_tags(value: object) -> FrozenTags:
    if not isinstance(value, Mapping):
        raise EventError(f"tags is {type(value).__name__}, a dict of strings is needed")
    if len(value) > MAX_TAGS:
        raise EventError(f"{len(value)} tags: at most {MAX_TAGS} are allowed")
    if not value:
        return NO_TAGS
    for key, item in value.items():
        _check_text(key)
        _check_text(item)
    return FrozenTags(value)
