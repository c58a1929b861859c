"""Records as Kafka messages, and back.

An event is written in the binary mode of CloudEvents 1.0 (Kafka protocol binding 1.0.2): headers ``ce_…`` and
``content-type``, the payload as the value, UTF-8. The event's own headers are message headers, and the ordering key is the
message's key. Two more headers belong to the mesh: ``dimesh`` is the compact header, from which the event is restored
unchanged at the cost of one decode, and ``dimesh-route`` is what filters read before that. Both are text, since some readers
(the CloudEvents SDK is one) take every header for text: each byte of the compact header is written as the character with
that number.

A message from another program is read as a CloudEvent, binary or structured. Headers that are not CloudEvents attributes are
kept in the event's headers. A message that is not a CloudEvent is passed on unchanged; the engine dead-letters it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from dimesh.errors import CodecError, EventError
from dimesh.events import Event
from dimesh.events.cloudevents import KAFKA_PREFIX, from_binary, from_structured, to_binary
from dimesh.events.fields import NO_HEADERS
from dimesh.events.shared import SharedAttributes
from dimesh.spi.bus import Record, RefusedRecord

COMPACT: Final = "dimesh"
ROUTE: Final = "dimesh-route"
FRAME: Final = "dimesh-frame"
"""The header with the number of bytes of a frame in front of the payload, see :mod:`dimesh_kafka.frames`."""
FRAME_HEADER: Final = "__value_schema_id"
"""The header that names the schema of a bare payload, in the header form of Confluent's serializers."""
_MOST_FRAME_DIGITS: Final = 3
_STRUCTURED: Final = b"application/cloudevents+json"
_SPECVERSION: Final = f"{KAFKA_PREFIX}specversion"
_CONTENT_TYPE: Final = "content-type"
_MOST_ROUTES: Final = 10_000
_MOST_DIGITS: Final = 4
"""The maximum digits of the number of headers in a route."""

Headers = Sequence[tuple[str, bytes]]

_to_json = msgspec.json.Encoder().encode
_ID: Final = f"{KAFKA_PREFIX}id"
_TIME: Final = f"{KAFKA_PREFIX}time"
_TRACE: Final = f"{KAFKA_PREFIX}traceid"
_routes: dict[bytes, tuple[str, str, str, int]] = {}
"""The routes that were read, of which there are few: type, pillar, priority and the number of headers in all."""


def to_headers(record: Record) -> list[tuple[str, bytes]]:
    """Return the message headers of a record.

    Raises:
        EventError: the event cannot be encoded.
    """
    compact = (COMPACT, record.header.decode("latin-1").encode())
    event = record.decoded or _event_of(record)
    if event is None:
        return [compact, _route_of(record, 0)]
    shared = _shared.get(event)
    if shared is not None:
        route, attributes = shared
        m = event.metadata
        return [
            compact,
            route,
            (_ID, m.event_id.encode()),
            (_TIME, f"{m.timestamp.isoformat()[:-6]}Z".encode()),  # always UTC
            (_TRACE, m.trace_id.encode()),
            *attributes,
        ]
    others = _attributes(event)
    if event.headers is not NO_HEADERS:
        others += _written(event.headers)
    return [compact, _route_of(record, len(others)), *others]


def framed(payload: bytes, head: bytes, headers: list[tuple[str, bytes]], *, by_header: bool) -> bytes:
    """Return the value of a message with a frame.

    Args:
        payload: the payload of the event.
        head: the frame.
        headers: what :func:`to_headers` returned; it is completed.
        by_header: whether the frame is a header of its own.
    """
    front, _, others = headers[1][1].rpartition(b"\0")
    headers[1] = (ROUTE, b"%s\0%d" % (front, int(others) + 1))
    if by_header:
        headers.append((FRAME_HEADER, head))
        return payload
    headers.append((FRAME, b"%d" % len(head)))
    return head + payload


def _unframed(payload: bytes, headers: Headers) -> bytes:
    for name, value in headers:
        if name == FRAME and value is not None and value.isdigit() and len(value) <= _MOST_FRAME_DIGITS:
            return payload[int(value) :]
    return payload


def _route_of(record: Record, others: int) -> tuple[str, bytes]:
    route = f"{record.event_type}\0{record.pillar}\0{record.priority}\0{others}"
    return ROUTE, route.encode("utf-8", "surrogatepass")


def _attributes(event: Event) -> list[tuple[str, bytes]]:
    attributes, _ = to_binary(event, KAFKA_PREFIX)
    return [(name, value.encode("utf-8")) for name, value in attributes.items()]


def _prepare(event: Event) -> tuple[tuple[str, bytes], Headers]:
    """Return the route and the attributes that events of one kind share."""
    attributes = _attributes(event)
    same = [header for header in attributes if header[0] not in (_ID, _TIME, _TRACE)]
    return _route_of(Record.of(event, ""), len(attributes)), same


_shared = SharedAttributes(_prepare)


def _event_of(record: Record) -> Event | None:
    try:
        return record.event
    except CodecError:
        return None  # the engine judges it: it is sent unchanged


def _written(headers: Mapping[str, str | bytes]) -> list[tuple[str, bytes]]:
    return [
        (name, value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value)
        for name, value in headers.items()
        if not name.startswith("ce-")  # foreign attributes are written as attributes
    ]


def from_message(key: bytes | None, value: bytes | None, headers: Headers) -> Record:
    """Return the record of a message. It never fails: what cannot be read is passed on for the engine to judge."""
    name = "" if key is None else key.decode("utf-8", "replace")
    payload = value or b""
    if len(headers) > 1 and headers[1][0] == ROUTE and headers[0][0] == COMPACT:
        raw = headers[1][1]
        route = _routes.get(raw) or _route(raw)
        if route is not None:
            try:
                compact = headers[0][1].decode().encode("latin-1")
            except UnicodeError:
                return _foreign(name, payload, headers, value is None)
            kind, pillar, priority, count = route
            if headers[-1][0] == FRAME or len(headers) != count:
                payload = _unframed(payload, headers)
            record = Record(name, kind, pillar, priority, payload, None, None, compact)
            return record if len(headers) == count else _with_foreign(record, headers)
    return _foreign(name, payload, headers, value is None)


def _route(raw: bytes) -> tuple[str, str, str, int] | None:
    """Return a route that this module wrote; None for anything else."""
    try:
        kind, _, rest = raw.decode("utf-8", "surrogatepass").partition("\0")
    except UnicodeDecodeError:
        return None
    parts = rest.rsplit("\0", 2)  # a pillar may contain a NUL; a type and a priority may not
    if len(parts) != 3 or not parts[2].isdecimal() or len(parts[2]) > _MOST_DIGITS:
        return None
    if len(_routes) >= _MOST_ROUTES:
        _routes.clear()
    found = _routes[raw] = (kind, parts[0], parts[1], int(parts[2]) + 2)
    return found


def _with_foreign(record: Record, headers: Headers) -> Record:
    """Return the record with the headers that somebody added on the way."""
    try:
        event = record.event
    except CodecError:
        return record
    new = {
        name: value
        for name, value in _others(headers).items()
        if name not in event.headers and f"ce-{name}" not in event.headers and name != FRAME_HEADER
    }
    return Record.of(event.replace(headers={**event.headers, **new}), record.key) if new else record


def _foreign(key: str, payload: bytes, headers: Headers, tombstone: bool) -> Record:
    found = {name.lower(): value or b"" for name, value in headers}
    try:
        if found.get(_CONTENT_TYPE, b"").startswith(_STRUCTURED):
            event = from_structured(payload)
        elif _SPECVERSION in found:
            event = from_binary(found, payload, KAFKA_PREFIX)
        else:
            raise EventError(
                "it has no value (a tombstone), and no CloudEvents attributes"
                if tombstone
                else f"it has no CloudEvents attributes (header '{_SPECVERSION}'), and is not a structured CloudEvent. The "
                "option 'foreign' of a subscription reads such records"
            )
        others = _others(headers)
        if others:
            event = event.replace(headers={**event.headers, **others})
    except EventError as error:
        kept = _to_json([(name, value or b"") for name, value in headers])
        return RefusedRecord.of(kept, payload, key, str(error), tombstone)
    return Record.of(event, key)


def _others(headers: Headers) -> dict[str, str | bytes]:
    """Return the headers that belong to neither CloudEvents nor the mesh. A repeated name gets a number."""
    found: dict[str, str | bytes] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in (COMPACT, ROUTE, FRAME, _CONTENT_TYPE) or lower.startswith(KAFKA_PREFIX) or not name:
            continue
        own, count = name, 1
        while own in found:
            count += 1
            own = f"{name};{count}"
        found[own] = _text(value or b"")
    return found


def _text(value: bytes) -> Any:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value
