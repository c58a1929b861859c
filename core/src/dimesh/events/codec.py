"""Events as bytes: the compact form inside the mesh, and one JSON object for people and files."""

from __future__ import annotations

from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

import msgspec

from dimesh.errors import CodecError, EventError
from dimesh.events import strictjson
from dimesh.events.event import JSON, NO_HEADERS, Event, freeze_headers, restore
from dimesh.events.metadata import NO_TAGS, EventMetadata
from dimesh.events.names import check_type
from dimesh.events.types import EventPriority

FORMAT: Final = 1
"""Version of the compact header. A reader refuses a newer one."""

# -- compact -----------------------------------------------------------------------------------------


class _Header(msgspec.Struct, array_like=True, gc=False):
    format: int
    event_type: str
    schema_version: str
    metadata: EventMetadata
    content_type: str = JSON
    headers: dict[str, Any] | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Header).decode


def encode_header(event: Event) -> bytes:
    """Everything of an event but its payload, as a MessagePack array. The payload is ``event.data``.

    Raises:
        EventError: a header or field holds a lone surrogate.
    """
    try:
        return _encode(
            _Header(
                FORMAT,
                event._event_type,
                event.schema_version,
                event.metadata,
                event.content_type,
                dict(event.headers) if event.headers else None,
            )
        )
    except UnicodeEncodeError as error:
        raise EventError(f"{event!r} holds a lone surrogate in a header") from error


def decode_header(header: bytes, data: bytes) -> Event:
    """The event that :func:`encode_header` wrote, with ``data`` as its payload's bytes.

    Raises:
        CodecError: the header is damaged, or of a newer format.
    """
    try:
        found = _decode(header)
    except (msgspec.MsgspecError, EventError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(_why(header, error)) from error
    if found.format != FORMAT:
        raise CodecError(_why(header, None))
    return restore(
        found.event_type,
        found.metadata,
        data,
        found.schema_version,
        found.content_type,
        MappingProxyType(found.headers) if found.headers else NO_HEADERS,
    )


def _why(header: bytes, error: Exception | None) -> str:
    try:
        loose = msgspec.msgpack.decode(header)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        loose = None
    if isinstance(loose, list) and loose and isinstance(loose[0], int) and loose[0] > FORMAT:
        return f"the event header has format {loose[0]}, this dimesh reads up to {FORMAT}: upgrade dimesh"
    return f"not an event header: {error or 'unknown format'}"


# -- JSON --------------------------------------------------------------------------------------------


class _JsonMetadata(msgspec.Struct, gc=False):
    # The names of EventMetadata, written as an object instead of an array.
    event_id: str
    trace_id: str
    span_id: str | None
    parent_span_id: str | None
    source_pillar: str
    source_agent: str
    target_pillar: str | None
    target_agent: str | None
    timestamp: datetime
    priority: EventPriority
    correlation_id: str | None
    causation_id: str | None
    tags: dict[str, str]


class _JsonEvent(msgspec.Struct, gc=False, omit_defaults=True):
    event_type: str
    metadata: _JsonMetadata
    payload: msgspec.Raw
    schema_version: str
    content_type: str = JSON
    headers: dict[str, Any] = msgspec.field(default_factory=dict)


_encode_json = msgspec.json.Encoder().encode
_JSON_FIELDS: Final = frozenset(_JsonEvent.__struct_fields__)


def encode_json(event: Event) -> bytes:
    """One JSON object; see :meth:`Event.to_json`. A payload that is not JSON is written as base64 text."""
    m = event.metadata
    payload = event.data
    if event.content_type != JSON:
        payload = _encode_json(event.data)
    elif not payload:
        payload = b"null"
    try:
        return _encode_json(
            _JsonEvent(
                event._event_type,
                _JsonMetadata(
                    m.event_id,
                    m.trace_id,
                    m.span_id,
                    m.parent_span_id,
                    m.source_pillar,
                    m.source_agent,
                    m.target_pillar,
                    m.target_agent,
                    m.timestamp,
                    m.priority,
                    m.correlation_id,
                    m.causation_id,
                    m.tags,
                ),
                msgspec.Raw(payload),
                event.schema_version,
                event.content_type,
                dict(event.headers) if event.headers else {},
            )
        )
    except UnicodeEncodeError as error:
        raise EventError(f"{event!r} holds a lone surrogate in a header") from error


class _ReadEvent(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    # What is accepted from outside: all but the type may be left out.
    event_type: str
    metadata: _ReadMetadata = msgspec.field(default_factory=lambda: _ReadMetadata())
    payload: msgspec.Raw = msgspec.Raw(b"null")
    schema_version: str = "1.0.0"
    content_type: str = JSON
    headers: dict[str, str] = msgspec.field(default_factory=dict)


class _ReadMetadata(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    event_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    source_pillar: str = ""
    source_agent: str = ""
    target_pillar: str | None = None
    target_agent: str | None = None
    timestamp: datetime | None = None
    priority: EventPriority = EventPriority.NORMAL
    correlation_id: str | None = None
    causation_id: str | None = None
    tags: dict[str, str] = NO_TAGS


_decode_json = msgspec.json.Decoder(_ReadEvent).decode


def decode_json(text: str | bytes) -> Event:
    """The event that ``text`` holds. Only ``event_type`` is needed; the rest has defaults.

    Raises:
        EventError: not strict JSON, an unknown field, or a value that does not fit.
    """
    try:
        found = _decode_json(text)
    except (msgspec.MsgspecError, UnicodeError) as error:
        strictjson.loads(text)  # where the text is not JSON at all, that says it better
        raise EventError(f"not an event: {error}") from error
    except RecursionError as error:
        raise EventError("not an event: nested too deep") from error
    m = found.metadata
    given: dict[str, Any] = {}
    if m.event_id is not None:
        given["event_id"] = m.event_id
    if m.trace_id is not None:
        given["trace_id"] = m.trace_id
    if m.timestamp is not None:
        given["timestamp"] = m.timestamp
    event = restore(
        check_type(found.event_type),
        EventMetadata(
            span_id=m.span_id,
            parent_span_id=m.parent_span_id,
            source_pillar=m.source_pillar,
            source_agent=m.source_agent,
            target_pillar=m.target_pillar,
            target_agent=m.target_agent,
            priority=m.priority,
            correlation_id=m.correlation_id,
            causation_id=m.causation_id,
            tags=m.tags,
            **given,
        ),
        bytes(found.payload),
        found.schema_version,
        found.content_type,
        freeze_headers(found.headers) if found.headers else NO_HEADERS,
    )
    if encode_json(event) != (text.encode("utf-8") if isinstance(text, str) else text):
        # Not our own writing: read it once more by the strict rules (duplicate keys, numbers, surrogates).
        strictjson.loads(text)
    return event
