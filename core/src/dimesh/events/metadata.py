"""The metadata of an event: sender, receiver, time, priority, trace and causation."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Annotated, Any, Final, NoReturn

import msgspec
from msgspec import Meta
from msgspec.structs import asdict, force_setattr

from dimesh.errors import EventError
from dimesh.events.current import handling_event
from dimesh.events.headers import read_headers, write_headers
from dimesh.events.ids import new_event_id, new_trace_id
from dimesh.events.names import show
from dimesh.events.types import EventPriority

MAX_FIELD: Final = 1_024
"""The maximum length of a text field in characters."""
MAX_TAGS: Final = 100
"""The maximum number of tags of an event."""

UTC: Final = timezone.utc  # noqa: UP017 - the same object that msgspec puts into decoded times


class FrozenTags(dict[str, str]):
    """The tags of an event: an immutable dict. ``dict(tags)`` is a copy that can be changed."""

    __slots__ = ()

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("events are immutable: copy the tags with dict(tags) and create a new event")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return (FrozenTags, (dict(self),))


NO_TAGS: Final = FrozenTags()


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _trace_id() -> str:
    """Return the trace of the event that is being handled, else a new one."""
    event = handling_event.get()
    return new_trace_id() if event is None else event.metadata.trace_id


_Text = Annotated[str, Meta(max_length=MAX_FIELD)]


class MetadataFields(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The fields of :class:`EventMetadata`, as they are decoded: msgspec checks them by their annotations, so that the checks in
    Python are left to the values of callers.

    The order of the fields is the wire order of the compact header: new fields are added at the end, with a default.
    """

    event_id: Annotated[str, Meta(min_length=1, max_length=MAX_FIELD)] = msgspec.field(
        default_factory=new_event_id
    )
    """The unique id of the event, kept when the event is sent again. A generated id sorts by time."""
    trace_id: _Text = msgspec.field(default_factory=_trace_id)
    """The id of the trace that the event belongs to, across agents. A generated id has 32 hex digits (W3C trace context)."""
    span_id: _Text | None = None
    parent_span_id: _Text | None = None
    source_pillar: _Text = ""
    source_agent: _Text = ""
    target_pillar: _Text | None = None
    target_agent: _Text | None = None
    timestamp: Annotated[datetime, Meta(tz=True)] = msgspec.field(default_factory=_utc_now)
    """The time of the event: an aware datetime in UTC, to the microsecond."""
    priority: EventPriority = EventPriority.NORMAL
    correlation_id: _Text | None = None
    """The id of the conversation: in a reply, the id of the request."""
    causation_id: _Text | None = None
    """The id of the event that caused this one."""
    tags: Annotated[dict[_Text, _Text], Meta(max_length=MAX_TAGS)] = NO_TAGS


class EventMetadata(MetadataFields, frozen=True, array_like=True, gc=False):
    """The metadata of an event. Immutable: ``msgspec.structs.replace(metadata, priority=…)`` returns a changed copy.

    Pass the fields as keywords; only codecs rely on the order.

    Raises:
        EventError: a field has the wrong type or more than 1,024 characters, or the time has no time zone.
    """

    def __post_init__(self) -> None:
        # One join is enough for most events: all fields are ASCII strings, and together they are short.
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
            raise EventError("event_id is empty: omit it to have one generated")
        if pillar.__class__ is not str or agent.__class__ is not str:
            # Keys are made of these two, so an enum member must become its value.
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
        """The default ordering key, ``<pillar>:<agent>`` of the sender: the events of one agent stay in order."""
        return f"{self.source_pillar}:{self.source_agent}"

    def to_headers(self) -> dict[str, str]:
        """Return the metadata as string headers, for transports that support nothing else.

        Header names are the field names with dashes; empty fields are omitted; a tag becomes ``tag-<name>``. If the
        trace and span ids are valid in W3C trace context, there is a ``traceparent``, too.
        """
        return write_headers(asdict(self))

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> EventMetadata:
        """Return the metadata that :meth:`to_headers` wrote. Unknown headers are ignored; ``traceparent`` provides the trace
        and the parent span if the headers have no trace id.

        Raises:
            EventError: the value of a header is not valid for its field.
        """
        return cls(**read_headers(headers))


def as_metadata(decoded: MetadataFields) -> EventMetadata:
    """Make metadata of decoded fields, in place.

    Raises:
        EventError: the time is outside the years 1 to 9999 in UTC.
    """
    if decoded.timestamp.tzinfo is not UTC:
        force_setattr(decoded, "timestamp", as_utc(decoded.timestamp))
    tags = decoded.tags
    if tags is not NO_TAGS:
        force_setattr(decoded, "tags", FrozenTags(tags) if tags else NO_TAGS)
    force_setattr(decoded, "__class__", EventMetadata)
    return decoded  # type: ignore[return-value]


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
        raise EventError(f"tags must be a dict of strings, not {type(tags).__name__}")
    if len(tags) > MAX_TAGS:
        raise EventError(f"an event can have {MAX_TAGS} tags at most, not {len(tags)}")
    for name, value in tags.items():
        check_text("tag name", name)
        check_text("tag value", value)


def check_text(what: str, value: object, limit: int = MAX_FIELD) -> None:
    """Check that a value is a string of at most ``limit`` characters that UTF-8 can encode.

    Raises:
        EventError: the value is not; the message begins with ``what``.
    """
    if not isinstance(value, str):
        raise EventError(f"{what} {show(value)} is {type(value).__name__}; it must be a string")
    if len(value) > limit:
        raise EventError(f"{what} {show(value)} is longer than {limit:,} characters")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise EventError(
            f"{what} {show(value)} contains a lone surrogate, which is not valid Unicode"
        ) from error


def as_utc(value: object) -> datetime:
    """Return the same moment as a plain datetime in UTC.

    Raises:
        EventError: the value is not an aware datetime, or is outside the years 1 to 9999.
    """
    if not isinstance(value, datetime):
        raise EventError(f"timestamp must be an aware datetime, not {type(value).__name__}")
    if value.tzinfo is None or value.utcoffset() is None:
        raise EventError("timestamp has no time zone: use datetime.now(timezone.utc)")
    try:
        t = value.astimezone(UTC)
    except OverflowError as error:
        raise EventError(f"timestamp {value.isoformat()} is outside the years 1 to 9999 in UTC") from error
    # Subclasses of datetime become plain ones, since only those can be encoded.
    return datetime(t.year, t.month, t.day, t.hour, t.minute, t.second, t.microsecond, UTC)


def _as_priority(value: Any) -> EventPriority:
    try:
        return EventPriority(value)
    except ValueError:
        names = ", ".join(p.value for p in EventPriority)
        raise EventError(f"{show(value)} is not a priority: use one of {names}") from None
