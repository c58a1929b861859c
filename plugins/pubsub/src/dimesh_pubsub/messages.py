"""Records as messages of Pub/Sub, and back.

An event is written in the binary mode of CloudEvents 1.0 (the Pub/Sub binding,
https://github.com/googleapis/google-cloudevents/blob/main/docs/spec/pubsub.md: attributes ``ce-…`` and ``content-type``,
the payload as the data), its own headers as attributes where they are text. The attribute ``dimesh`` is the mesh's own:
how many attributes there are in all, and the compact header as base64, from which the event comes back unchanged at the
cost of one decode. An attribute has at most 1,024 bytes (https://cloud.google.com/pubsub/quotas#resource_limits): what
is left of the compact header goes into ``dimesh-1``, ``dimesh-2`` …, and a CloudEvents attribute that is longer is
left out.

A message of somebody else is read as CloudEvent, binary or structured; attributes that are none of CloudEvents' are kept
in the event's headers. What is no CloudEvent is handed on as it is; the engine makes a dead letter of it.
"""

from __future__ import annotations

import binascii
import hashlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

import msgspec
from google.pubsub_v1.types import PubsubMessage

from dimesh.errors import CodecError, EventError
from dimesh.events import Event
from dimesh.events.cloudevents import HTTP_PREFIX, from_binary, from_structured, to_binary
from dimesh.events.event import NO_HEADERS
from dimesh.spi.bus import Record
from dimesh_pubsub.filters import COMPACT, UNUSUAL

Message: Final[Any] = PubsubMessage.pb()
KEY: Final = "dimesh-key"
"""The event's ordering key, where the message's is another."""
MAX_ATTRIBUTES: Final = 100
MAX_NAME: Final = 256
MAX_VALUE: Final = 1_024
MAX_SIZE: Final = 10_000_000
"""Bytes of a message."""
_MOST_KINDS: Final = 10_000
_OWN: Final = frozenset({COMPACT, KEY, UNUSUAL, "content-type"})
_ID: Final = f"{HTTP_PREFIX}id"
_TIME: Final = f"{HTTP_PREFIX}time"
_TRACE: Final = f"{HTTP_PREFIX}traceid"
_TYPE: Final = f"{HTTP_PREFIX}type"
_SOURCE: Final = f"{HTTP_PREFIX}source"
_PRIORITY: Final = f"{HTTP_PREFIX}priority"
_MEANINGFUL: Final = (_TYPE, _SOURCE, _PRIORITY)
_to_json = msgspec.json.Encoder().encode
_fixed: dict[tuple[object, ...], dict[str, str]] = {}
"""By what events have in common, the attributes that are the same for all of them."""
_pillars: dict[str, str] = {}
"""Sources that were read, since there are few."""


def to_message(record: Record, ordering_key: str) -> Any:
    """The message of a record.

    Raises:
        EventError: it has more, or longer, attributes than a message can have.
    """
    attributes = _attributes_of(record)
    if ordering_key != record.key:
        attributes[KEY] = _checked(KEY, record.key)
    compact = b64encode(record.header).decode()
    count = len(attributes) + 1
    room = MAX_VALUE - 8
    if len(compact) > room:
        pieces = [compact[at : at + MAX_VALUE] for at in range(room, len(compact), MAX_VALUE)]
        count += len(pieces)
        for number, piece in enumerate(pieces, 1):
            attributes[f"{COMPACT}-{number}"] = piece
    attributes[COMPACT] = f"{count}:{compact[:room]}"
    if count > MAX_ATTRIBUTES:
        raise EventError(
            f"the event needs {count} attributes, and a message of Pub/Sub has at most {MAX_ATTRIBUTES}: "
            "give it fewer or shorter headers and tags"
        )
    return Message(data=record.payload, attributes=attributes, ordering_key=ordering_key)


def ordering_key_of(record: Record, rule: str) -> str:
    """Pub/Sub's ordering key of a record; at most 1,024 bytes. An empty one would mean no order."""
    if rule == "none":
        return ""
    if rule == "key":
        value = record.key
    elif rule == "pillar":
        value = record.pillar
    else:
        value = record.event.metadata.tags.get("tenant", record.key)
    if (
        len(value) > 250 and len(value.encode("utf-8", "surrogatepass")) > MAX_VALUE
    ) or not value.isprintable():
        return "#" + hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
    return value or "#"


def _attributes_of(record: Record) -> dict[str, str]:
    """CloudEvents' attributes and the event's own headers; nothing for bytes that are no event."""
    try:
        event = record.event
    except CodecError:
        return {}
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
            if len(_fixed) >= _MOST_KINDS:
                _fixed.clear()
            found = _cloud_attributes(event)
            fixed = _fixed[kind] = {n: v for n, v in found.items() if n not in (_ID, _TIME, _TRACE)}
        if len(m.event_id) <= MAX_VALUE // 4 and len(m.trace_id) <= MAX_VALUE // 4:
            attributes = fixed.copy()
            attributes[_ID] = m.event_id
            attributes[_TIME] = m.timestamp.isoformat().replace("+00:00", "Z")
            attributes[_TRACE] = m.trace_id
            return attributes
    attributes = _cloud_attributes(event)
    for name, value in event.headers.items():
        # What cannot be an attribute is in the compact header all the same.
        if isinstance(value, str) and name not in attributes and _writable(name, value):
            attributes[name] = value
    return attributes


def _cloud_attributes(event: Event) -> dict[str, str]:
    found, _ = to_binary(event, HTTP_PREFIX, percent=False)
    attributes = {name: value for name, value in found.items() if len(value.encode()) <= MAX_VALUE}
    if any(name in event.headers for name in _MEANINGFUL) or any(
        name not in attributes for name in _MEANINGFUL
    ):
        attributes[UNUSUAL] = "1"
    return attributes


def _writable(name: str, value: str) -> bool:
    if name.startswith((COMPACT, HTTP_PREFIX, "goog")) or name in _OWN or not name:
        return False
    try:
        return len(name.encode()) <= MAX_NAME and len(value.encode()) <= MAX_VALUE
    except UnicodeEncodeError:
        return False


def _checked(name: str, value: str) -> str:
    if len(value.encode("utf-8", "replace")) > MAX_VALUE:
        raise EventError(
            f"an ordering key of more than {MAX_VALUE:,} bytes cannot be carried by Pub/Sub ({name})"
        )
    return value


def from_message(message: Any) -> Record:
    """The record of a message. Never fails: what cannot be read is handed on for the engine to judge."""
    attributes = message.attributes
    first = attributes.get(COMPACT)
    if first is not None:
        count, _, compact = first.partition(":")
        if len(compact) == MAX_VALUE - 8:
            number = 1
            while piece := attributes.get(f"{COMPACT}-{number}"):
                compact += piece
                number += 1
        try:
            header = b64decode(compact, validate=True)
        except (binascii.Error, ValueError):
            return _foreign(message)
        source = attributes.get(_SOURCE, "")
        pillar = _pillars.get(source)
        if pillar is None:
            pillar = _pillar(source)
        record = Record(
            attributes.get(KEY, message.ordering_key),
            attributes.get(_TYPE, ""),
            pillar,
            attributes.get(_PRIORITY, "normal"),
            message.data,
            None,
            None,
            header,
        )
        usual = str(len(attributes)) == count
        if usual and UNUSUAL not in attributes:
            return record
        return _with_foreign(record, attributes)
    return _foreign(message)


def _pillar(source: str) -> str:
    if len(_pillars) >= _MOST_KINDS:
        _pillars.clear()
    parts = source.split("/")
    found = _pillars[source] = unquote(parts[2]) if len(parts) == 4 and parts[1] == "dimesh" else ""
    return found


def _with_foreign(record: Record, attributes: Mapping[str, str]) -> Record:
    """The attributes do not say what the event is, or somebody on the way added some: what is new is kept."""
    try:
        event = record.event
    except CodecError:
        return record
    new = {name: value for name, value in _others(attributes).items() if name not in event.headers}
    return Record.of(event.replace(headers={**event.headers, **new}) if new else event, record.key)


def _foreign(message: Any) -> Record:
    attributes = dict(message.attributes)
    payload = message.data
    try:
        if attributes.get("content-type", "").startswith("application/cloudevents"):
            event = from_structured(payload)
        elif f"{HTTP_PREFIX}specversion" in attributes:
            # The binding has the content type as an attribute of its own; its examples have it as all the others.
            kind = attributes.pop(f"{HTTP_PREFIX}datacontenttype", None)
            if kind is not None:
                attributes.setdefault("content-type", kind)
            event = from_binary(attributes, payload, HTTP_PREFIX, percent=False)
        else:
            raise EventError("no CloudEvent")
        others = _others(attributes)
        if others:
            event = event.replace(headers={**event.headers, **others})
    except EventError:
        kept = _to_json(attributes)
        return Record.stored(kept, payload, message.ordering_key, "", "", "normal")
    return Record.of(event, message.ordering_key)


def _others(attributes: Mapping[str, str]) -> dict[str, str]:
    """Attributes that are neither CloudEvents' nor the mesh's."""
    return {
        name: value
        for name, value in attributes.items()
        if name not in _OWN and not name.startswith((HTTP_PREFIX, f"{COMPACT}-"))
    }
