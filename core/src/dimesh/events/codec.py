"""Codecs: the compact binary form that is used inside the mesh, and one JSON object for people and files."""

from __future__ import annotations

from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dimesh.errors import CodecError, EventError
from dimesh.events import strictjson
from dimesh.events.fields import (
    JSON,
    MAX_VERSION,
    NO_HEADERS,
    VERSION,
    EventFields,
    Headers,
    check_size,
    check_version,
    embeddable,
    freeze_headers,
)
from dimesh.events.ids import new_event_id, new_trace_id
from dimesh.events.metadata import MAX_FIELD, NO_TAGS, UTC, EventMetadata, MetadataFields, as_metadata
from dimesh.events.names import check_type
from dimesh.events.types import EventPriority

FORMAT: Final = 1
"""The format version of the compact header. Readers refuse newer versions."""

# The exceptions that msgspec and the checks raise on hostile input.
_REFUSALS: Final = (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError)

_Version = Annotated[str, Meta(min_length=1, max_length=MAX_VERSION)]
_ContentType = Annotated[str, Meta(min_length=1, max_length=MAX_FIELD)]
_HeaderName = Annotated[str, Meta(min_length=1, max_length=MAX_FIELD)]


def _plain_text(value: object) -> str:
    # msgspec encodes str only; a subclass is encoded as its text.
    if isinstance(value, str):
        return str.__str__(value)
    raise TypeError(f"{type(value).__name__} cannot be part of an event")


def _split_headers(headers: Headers) -> tuple[dict[str, str], dict[str, bytes]]:
    text = {name: value for name, value in headers.items() if isinstance(value, str)}
    return text, {name: value for name, value in headers.items() if isinstance(value, bytes)}


def _unencodable(event: EventFields, error: Exception) -> EventError:
    return EventError(f"{event!r} cannot be encoded: {error}")


# -- compact -----------------------------------------------------------------------------------------


class _Header(msgspec.Struct, array_like=True, gc=False):
    format: int
    event_type: str
    schema_version: _Version | None
    metadata: MetadataFields
    content_type: _ContentType | None = None
    headers: dict[_HeaderName, str] | None = None
    binary_headers: dict[_HeaderName, bytes] | None = None


class _FormatOnly(msgspec.Struct, array_like=True, gc=False):
    format: int


_encode = msgspec.msgpack.Encoder(enc_hook=_plain_text).encode
_decode = msgspec.msgpack.Decoder(_Header).decode
_decode_format = msgspec.msgpack.Decoder(_FormatOnly).decode


def encode_header(event: EventFields) -> bytes:
    """Encode everything of an event except its payload (``event.data``) as a MessagePack array.

    Raises:
        EventError: a header or field cannot be encoded.
    """
    text, binary = _split_headers(event.headers) if event.headers else (None, None)
    try:
        return _encode(
            _Header(
                FORMAT,
                event._event_type,
                # None stands for the default: shorter, and decoded events share one string.
                None if event.schema_version == VERSION else event.schema_version,
                event.metadata,
                None if event.content_type == JSON else event.content_type,
                text,
                binary,
            )
        )
    except (TypeError, ValueError) as error:
        raise _unencodable(event, error) from error


def decode_header(header: bytes, data: bytes) -> EventFields:
    """Decode what :func:`encode_header` encoded; ``data`` becomes the payload.

    Raises:
        CodecError: the header is damaged, or has a newer format.
    """
    try:
        found = _decode(header)
        event_type = check_type(found.event_type)
        metadata = as_metadata(found.metadata)
    except _REFUSALS as error:
        raise CodecError(_why(header, error)) from error
    if found.format != FORMAT:
        raise CodecError(_why(header, None))
    headers: Headers = NO_HEADERS
    if found.headers or found.binary_headers:
        headers = MappingProxyType({**(found.headers or {}), **(found.binary_headers or {})})
    event = EventFields()
    event._event_type = event_type
    event.metadata = metadata
    event.data = data
    event.schema_version = found.schema_version or VERSION
    event.content_type = found.content_type or JSON
    event.headers = headers
    event._embeddable = None
    return event


def _why(header: bytes, error: Exception | None) -> str:
    try:
        version = _decode_format(header).format
    except _REFUSALS:
        version = FORMAT
    if version > FORMAT:
        return f"the event header has format {version}, but this version of dimesh reads formats up to {FORMAT}: upgrade dimesh"
    return f"not an event header: {error or f'there is no format {version}'}"


# -- JSON --------------------------------------------------------------------------------------------


class _JsonMetadata(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    # EventMetadata as an object: the same order and names, but every field is optional.
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


_NO_METADATA: Final = _JsonMetadata()


class _JsonEvent(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    event_type: str
    metadata: _JsonMetadata = _NO_METADATA
    payload: Any = UNSET
    schema_version: str = VERSION
    payload_base64: bytes | UnsetType = UNSET
    content_type: _ContentType | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET
    headers_base64: dict[str, bytes] | UnsetType = UNSET


class _RawJsonEvent(_JsonEvent, gc=False, forbid_unknown_fields=True):
    # The same, with the payload's bytes as they are in the text.
    payload: msgspec.Raw | UnsetType = UNSET


_encode_json = msgspec.json.Encoder(enc_hook=_plain_text).encode
_decode_json = msgspec.json.Decoder(_JsonEvent).decode
_decode_raw_json = msgspec.json.Decoder(_RawJsonEvent).decode
_encode_payload = msgspec.json.Encoder().encode


def encode_json(event: EventFields) -> bytes:
    """Encode an event as one JSON object; see :meth:`Event.to_json`.

    Raises:
        EventError: a header or field cannot be encoded.
    """
    m = event.metadata
    data = event.data
    embed = embeddable(event)
    found = _JsonEvent(
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
        msgspec.Raw(data) if embed else UNSET,
        event.schema_version,
        UNSET if embed or not data else data,
        UNSET if event.content_type == JSON else event.content_type,
    )
    if event.headers:
        text, binary = _split_headers(event.headers)
        found.headers = text or UNSET
        found.headers_base64 = binary or UNSET
    try:
        return _encode_json(found)
    except (TypeError, ValueError) as error:
        raise _unencodable(event, error) from error


def decode_json(text: str | bytes) -> EventFields:
    """Decode the event in ``text``. Only ``event_type`` is required; all other fields have defaults.

    Raises:
        EventError: the text is not strict JSON, has an unknown field, or has a value that is not valid.
    """
    if not isinstance(text, (str, bytes)):
        raise EventError(f"an event is decoded from str or bytes, not from {type(text).__name__}")
    found, payload = _read(text)
    if found.payload_base64 is not UNSET:
        if payload:
            raise EventError("not an event: it has both payload and payload_base64")
        known, payload = None, found.payload_base64
    else:
        known = True if payload else None
    content_type = JSON
    if found.content_type is not UNSET:
        content_type = found.content_type
        known = None
    headers = NO_HEADERS
    if found.headers is not UNSET or found.headers_base64 is not UNSET:
        headers = _join_headers(found.headers or {}, found.headers_base64 or {})
    m = found.metadata
    event = EventFields()
    event._event_type = check_type(found.event_type)
    event.metadata = EventMetadata(
        new_event_id() if m.event_id is None else m.event_id,
        new_trace_id() if m.trace_id is None else m.trace_id,
        m.span_id,
        m.parent_span_id,
        m.source_pillar,
        m.source_agent,
        m.target_pillar,
        m.target_agent,
        datetime.now(UTC) if m.timestamp is None else m.timestamp,
        m.priority,
        m.correlation_id,
        m.causation_id,
        m.tags,
    )
    event.data = check_size(payload)
    event.schema_version = VERSION if found.schema_version == VERSION else check_version(found.schema_version)
    event.content_type = content_type
    event.headers = headers
    event._embeddable = known
    return event


def _read(text: str | bytes) -> tuple[_JsonEvent, bytes]:
    """Return the event in ``text`` and the bytes of its payload, which are empty if there is none."""
    try:
        raw = text.encode("utf-8") if isinstance(text, str) else text
        found = _decode_json(raw)
        # Text that encodes back to itself has no duplicate keys and no rounded numbers.
        if _encode_json(found) == raw and not strictjson.maybe_deep(raw):
            return found, b"" if found.payload is UNSET else _encode_payload(found.payload)
    except _REFUSALS:
        pass
    strictjson.loads(text)
    try:
        found = _decode_raw_json(text)
    except _REFUSALS as error:
        raise EventError(f"not an event: {_short(error)}") from error
    return found, b"" if found.payload is UNSET else bytes(found.payload)


def _short(error: Exception) -> str:
    # msgspec repeats an unknown name in full, however long it is, so the message is cut.
    text = str(error)
    return text if len(text) <= 300 else f"{text[:300]}…"


def _join_headers(text: dict[str, str], binary: dict[str, bytes]) -> Headers:
    found: dict[str, Any] = {**text, **binary}
    if len(found) != len(text) + len(binary):
        raise EventError("not an event: a header is in both headers and headers_base64")
    return freeze_headers(found)
