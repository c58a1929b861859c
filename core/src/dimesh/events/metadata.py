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

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return (FrozenTags, (dict(self),))


NO_TAGS: Final = FrozenTags()


def _utc_now() -> datetime:
    return datetime.now(UTC)


class EventMetadata(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Metadata of one event. Immutable; ``msgspec.structs.replace(metadata, priority=…)`` makes a variant.

    The field order is the wire order of the compact header: new fields go to the end, with a default.
    Name the arguments; only codecs rely on the order.

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
        pillar = self.source_pillar
        agent = self.source_agent
        tags = self.tags
        kind = tags.__class__
        try:
            text = "".join(
                (
                    self.event_id,
                    self.trace_id,
                    pillar,
                    agent,
                    "" if (other := self.span_id) is None else other,
                    "" if (other := self.parent_span_id) is None else other,
                    "" if (other := self.target_pillar) is None else other,
                    "" if (other := self.target_agent) is None else other,
                    "" if (other := self.correlation_id) is None else other,
                    "" if (other := self.causation_id) is None else other,
                )
            )
            if kind is dict:
                if len(tags) > MAX_TAGS:
                    _check_tags(tags)
                for name, value in tags.items():
                    text += name + value
        except TypeError:
            text = ""
        if not text.isascii() or not 0 < len(text) <= MAX_FIELD:
            _check_fields(self)
        if not self.event_id:
            raise EventError("event_id is empty; leave it out to have one generated")
        if pillar.__class__ is not str or agent.__class__ is not str:
            # These two make up keys: an enum member must not stand there under its member name.
            force_setattr(self, "source_pillar", str.__str__(pillar))
            force_setattr(self, "source_agent", str.__str__(agent))
        timestamp = self.timestamp
        if timestamp.__class__ is not datetime or timestamp.tzinfo is not UTC:
            force_setattr(self, "timestamp", as_utc(timestamp))
        if self.priority.__class__ is not EventPriority:
            force_setattr(self, "priority", _as_priority(self.priority))
        if kind is not FrozenTags:
            if kind is not dict:
                _check_tags(tags)
            force_setattr(self, "tags", FrozenTags(tags) if tags else NO_TAGS)

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


_REQUIRED_TEXT: Final = ("event_id", "trace_id", "source_pillar", "source_agent")
_OPTIONAL_TEXT: Final = (
    "span_id",
    "parent_span_id",
    "target_pillar",
    "target_agent",
    "correlation_id",
    "causation_id",
)


def _check_fields(metadata: EventMetadata) -> None:
    for name in _REQUIRED_TEXT:
        check_text(name, getattr(metadata, name))
    for name in _OPTIONAL_TEXT:
        if getattr(metadata, name) is not None:
            check_text(name, getattr(metadata, name))
    _check_tags(metadata.tags)


def _check_tags(tags: object) -> None:
    if not isinstance(tags, Mapping):
        raise EventError(f"tags is {type(tags).__name__}, a dict of strings is needed")
    if len(tags) > MAX_TAGS:
        raise EventError(f"{len(tags)} tags: at most {MAX_TAGS} are allowed")
    for name, value in tags.items():
        check_text("tag name", name)
        check_text("tag value", value)


def check_text(what: str, value: object, limit: int = MAX_FIELD) -> None:
    """Refuse what is not a string of at most ``limit`` characters that UTF-8 can write.

    Raises:
        EventError: with ``what`` in its message.
    """
    if not isinstance(value, str):
        raise EventError(f"{what} {show(value)} is {type(value).__name__}, a string is needed")
    if len(value) > limit:
        raise EventError(f"{what} {show(value)} is longer than {limit:,} characters")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise EventError(
            f"{what} {show(value)} holds a lone surrogate, which is not valid Unicode"
        ) from error


def as_utc(value: object) -> datetime:
    """The same moment as a plain UTC datetime.

    Raises:
        EventError: not an aware datetime, or outside the years 1 to 9999.
    """
    if not isinstance(value, datetime):
        raise EventError(f"timestamp is {type(value).__name__}, an aware datetime is needed")
    if value.tzinfo is None or value.utcoffset() is None:
        raise EventError("timestamp has no time zone: use datetime.now(timezone.utc)")
    try:
        t = value.astimezone(UTC)
    except OverflowError as error:
        raise EventError(f"timestamp {value.isoformat()} is outside the years 1 to 9999 in UTC") from error
    # A plain datetime, whatever subclass came in: only that one can be encoded.
    return datetime(t.year, t.month, t.day, t.hour, t.minute, t.second, t.microsecond, UTC)


def _as_priority(value: Any) -> EventPriority:
    try:
        return EventPriority(value)
    except ValueError:
        names = ", ".join(p.value for p in EventPriority)
        raise EventError(f"{show(value)} is not a priority: use one of {names}") from None
