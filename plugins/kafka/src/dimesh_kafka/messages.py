"""Records as Kafka messages, and back.

An event is written in the binary mode of CloudEvents 1.0 (Kafka protocol binding 1.0.2: headers ``ce_…`` and
``content-type``, the payload as the value, UTF-8), its own headers as message headers, the ordering key as the
message's key. Two headers more are the mesh's own: ``dimesh``, the compact header, from which the event comes back
unchanged at the cost of one decode, and ``dimesh-route``, what filters look at before that. Both are text, since there
are readers (the CloudEvents SDK is one) that take every header for text: a byte of the
compact header is the character of that number.

A message of somebody else is read as CloudEvent, binary or structured. Headers that are none of CloudEvents' are kept
in the event's headers. What is no CloudEvent is handed on as it is; the engine makes a dead letter of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from dimesh.errors import CodecError, EventError
from dimesh.events import Event
from dimesh.events.cloudevents import KAFKA_PREFIX, from_binary, from_structured, to_binary
from dimesh.events.event import NO_HEADERS
from dimesh.spi.bus import Record

COMPACT: Final = "dimesh"
ROUTE: Final = "dimesh-route"
_STRUCTURED: Final = b"application/cloudevents+json"
_SPECVERSION: Final = f"{KAFKA_PREFIX}specversion"
_CONTENT_TYPE: Final = "content-type"
_MOST_ROUTES: Final = 10_000
_MOST_DIGITS: Final = 4
"""Of how many headers there are."""

Headers = Sequence[tuple[str, bytes]]

_to_json = msgspec.json.Encoder().encode
_ID: Final = f"{KAFKA_PREFIX}id"
_TIME: Final = f"{KAFKA_PREFIX}time"
_TRACE: Final = f"{KAFKA_PREFIX}traceid"
_fixed: dict[tuple[object, ...], tuple[tuple[str, bytes], Headers]] = {}
"""By what events have in common, their route and the attributes that are the same for all of them."""
_routes: dict[bytes, tuple[str, str, str, int]] = {}
"""Routes that were read, since there are few: type, pillar, priority and how many headers there are in all."""


def to_headers(record: Record) -> list[tuple[str, bytes]]:
    """The message headers of a record.

    Raises:
        EventError: the event cannot be written.
    """
    compact = (COMPACT, record.header.decode("latin-1").encode())
    event = record.decoded or _event_of(record)
    if event is None:
        return [compact, _route_of(record, 0)]
    m = event.metadata
    if (
        event.headers is NO_HEADERS
        and m.span_id is None
        and m.parent_span_id is None
        and m.target_pillar is None
        and m.target_agent is None
        and m.correlation_id is None
        and m.causation_id is None
        and not m.tags
    ):
        # Most events: they differ from others of their type and sender in three attributes only.
        kind = (
            event._event_type,
            m.source_pillar,
            m.source_agent,
            m.priority,
            event.schema_version,
            event.content_type,
        )
        fixed = _fixed.get(kind)
        if fixed is None:
            fixed = _fix(kind, record, event)
        return [
            compact,
            fixed[0],
            (_ID, m.event_id.encode()),
            (_TIME, m.timestamp.isoformat().replace("+00:00", "Z").encode()),
            (_TRACE, m.trace_id.encode()),
            *fixed[1],
        ]
    others = _attributes(event)
    if event.headers is not NO_HEADERS:
        others += _written(event.headers)
    return [compact, _route_of(record, len(others)), *others]


def _route_of(record: Record, others: int) -> tuple[str, bytes]:
    route = f"{record.event_type}\0{record.pillar}\0{record.priority}\0{others}"
    return ROUTE, route.encode("utf-8", "surrogatepass")


def _attributes(event: Event) -> list[tuple[str, bytes]]:
    attributes, _ = to_binary(event, KAFKA_PREFIX)
    return [(name, value.encode("utf-8")) for name, value in attributes.items()]


def _fix(kind: tuple[object, ...], record: Record, event: Event) -> tuple[tuple[str, bytes], Headers]:
    if len(_fixed) >= _MOST_ROUTES:
        _fixed.clear()
    attributes = _attributes(event)
    same = [header for header in attributes if header[0] not in (_ID, _TIME, _TRACE)]
    found = _fixed[kind] = (_route_of(record, len(attributes)), same)
    return found


def _event_of(record: Record) -> Event | None:
    try:
        return record.event
    except CodecError:
        return None  # not ours to judge: it travels as it is


def _written(headers: Mapping[str, str | bytes]) -> list[tuple[str, bytes]]:
    return [
        (name, value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value)
        for name, value in headers.items()
        if not name.startswith("ce-")  # foreign attributes are written as the attributes they are
    ]


def from_message(key: bytes | None, value: bytes | None, headers: Headers) -> Record:
    """The record of a message. Never fails: what cannot be read is handed on for the engine to judge."""
    name = "" if key is None else key.decode("utf-8", "replace")
    payload = value or b""
    if len(headers) > 1 and headers[1][0] == ROUTE and headers[0][0] == COMPACT:
        raw = headers[1][1]
        route = _routes.get(raw) or _route(raw)
        if route is not None:
            try:
                compact = headers[0][1].decode().encode("latin-1")
            except UnicodeError:
                return _foreign(name, payload, headers)
            kind, pillar, priority, count = route
            record = Record(name, kind, pillar, priority, payload, None, None, compact)
            return record if len(headers) == count else _with_foreign(record, headers)
    return _foreign(name, payload, headers)


def _route(raw: bytes) -> tuple[str, str, str, int] | None:
    """None: it is not as we write it."""
    try:
        kind, _, rest = raw.decode("utf-8", "surrogatepass").partition("\0")
    except UnicodeDecodeError:
        return None
    parts = rest.rsplit("\0", 2)  # a pillar may have a NUL; a type and a priority may not
    if len(parts) != 3 or not parts[2].isdecimal() or len(parts[2]) > _MOST_DIGITS:
        return None
    if len(_routes) >= _MOST_ROUTES:
        _routes.clear()
    found = _routes[raw] = (kind, parts[0], parts[1], int(parts[2]) + 2)
    return found


def _with_foreign(record: Record, headers: Headers) -> Record:
    """Somebody on the way added headers or took some away: what is new is kept."""
    try:
        event = record.event
    except CodecError:
        return record
    new = {
        name: value
        for name, value in _others(headers).items()
        if name not in event.headers and f"ce-{name}" not in event.headers
    }
    return Record.of(event.replace(headers={**event.headers, **new}), record.key) if new else record


def _foreign(key: str, payload: bytes, headers: Headers) -> Record:
    found = {name.lower(): value or b"" for name, value in headers}
    try:
        if found.get(_CONTENT_TYPE, b"").startswith(_STRUCTURED):
            event = from_structured(payload)
        elif _SPECVERSION in found:
            event = from_binary(found, payload, KAFKA_PREFIX)
        else:
            raise EventError("no CloudEvent")
        others = _others(headers)
        if others:
            event = event.replace(headers={**event.headers, **others})
    except EventError:
        kept = _to_json([(name, value or b"") for name, value in headers])
        return Record.stored(kept, payload, key, "", "", "normal")
    return Record.of(event, key)


def _others(headers: Headers) -> dict[str, str | bytes]:
    """Headers that are neither CloudEvents' nor the mesh's. One that stands there again gets a number."""
    found: dict[str, str | bytes] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in (COMPACT, ROUTE, _CONTENT_TYPE) or lower.startswith(KAFKA_PREFIX) or not name:
            continue
        own, again = name, 1
        while own in found:
            again += 1
            own = f"{name};{again}"
        found[own] = _text(value or b"")
    return found


def _text(value: bytes) -> Any:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value
