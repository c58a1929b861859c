"""Records as messages of Pub/Sub, and back.

An event is written in the binary mode of CloudEvents 1.0 (the Pub/Sub binding,
https://github.com/googleapis/google-cloudevents/blob/main/docs/spec/pubsub.md): attributes ``ce-…`` and ``content-type``, the
payload as the data. The event's own headers are attributes where they are text. The attribute ``dimesh`` belongs to the mesh:
it holds the number of attributes in all, and the compact header as base64, from which the event is restored unchanged at the
cost of one decode. An attribute has at most 1,024 bytes (https://cloud.google.com/pubsub/quotas#resource_limits): the rest of
the compact header goes into ``dimesh-1``, ``dimesh-2`` …, and a longer CloudEvents attribute is left out.

A message from another program is read as a CloudEvent, binary or structured. Attributes that do not belong to CloudEvents are
kept in the event's headers. A message that is not a CloudEvent is passed on unchanged; the engine dead-letters it.
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
from dimesh.events.shared import SharedAttributes
from dimesh.spi.bus import Record, RefusedRecord
from dimesh_pubsub.filters import COMPACT, UNUSUAL

Message: Final[Any] = PubsubMessage.pb()
KEY: Final = "dimesh-key"
"""Holds the event's ordering key where the message has another."""
MAX_ATTRIBUTES: Final = 100
MAX_NAME: Final = 256
MAX_VALUE: Final = 1_024
MAX_SIZE: Final = 10_000_000
"""The maximum bytes of a message."""
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
_pillars: dict[str, str] = {}
"""The pillars of the sources that were read, of which there are few."""


def to_message(record: Record, ordering_key: str) -> Any:
    """Return the message of a record.

    Raises:
        EventError: the event needs more, or longer, attributes than a message can have.
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
            f"the event needs {count} attributes, and a Pub/Sub message has at most {MAX_ATTRIBUTES}: "
            "use fewer or shorter headers and tags"
        )
    return Message(data=record.payload, attributes=attributes, ordering_key=ordering_key)


def ordering_key_of(record: Record, rule: str) -> str:
    """Return Pub/Sub's ordering key of a record: at most 1,024 bytes, and empty only if there is no order to keep."""
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
    """Return the CloudEvents attributes and the event's own headers; nothing for bytes that are not an event."""
    try:
        event = record.event
    except CodecError:
        return {}
    m = event.metadata
    shared = _shared.get(event)
    if shared is not None and len(m.event_id) <= MAX_VALUE // 4 and len(m.trace_id) <= MAX_VALUE // 4:
        attributes = shared.copy()
        attributes[_ID] = m.event_id
        attributes[_TIME] = f"{m.timestamp.isoformat()[:-6]}Z"  # always UTC
        attributes[_TRACE] = m.trace_id
        return attributes
    attributes = _cloud_attributes(event)
    for name, value in event.headers.items():
        # A header that cannot be an attribute is in the compact header anyway.
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


def _prepare(event: Event) -> dict[str, str]:
    """Return the attributes that events of one kind share."""
    return {n: v for n, v in _cloud_attributes(event).items() if n not in (_ID, _TIME, _TRACE)}


_shared = SharedAttributes(_prepare)


def _writable(name: str, value: str) -> bool:
    if name.startswith((COMPACT, HTTP_PREFIX, "goog")) or name in _OWN or not name:
        return False
    try:
        return len(name.encode()) <= MAX_NAME and len(value.encode()) <= MAX_VALUE
    except UnicodeEncodeError:
        return False


def _checked(name: str, value: str) -> str:
    if len(value.encode("utf-8", "replace")) > MAX_VALUE:
        raise EventError(f"Pub/Sub cannot carry an ordering key of more than {MAX_VALUE:,} bytes ({name})")
    return value


def from_message(message: Any) -> Record:
    """Return the record of a message. It never fails: what cannot be read is passed on for the engine to judge."""
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
    """Return the record decoded, with the attributes that somebody added on the way."""
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
            # The binding names the attribute of the content type content-type; its examples name it as all others.
            kind = attributes.pop(f"{HTTP_PREFIX}datacontenttype", None)
            if kind is not None:
                attributes.setdefault("content-type", kind)
            event = from_binary(attributes, payload, HTTP_PREFIX, percent=False)
        else:
            raise EventError(
                "it has no CloudEvents attributes ('ce-specversion'), and is not a structured CloudEvent. The option 'foreign' "
                "of a subscription reads such records"
            )
        others = _others(attributes)
        if others:
            event = event.replace(headers={**event.headers, **others})
    except EventError as error:
        kept = _to_json(attributes)
        return RefusedRecord.of(kept, payload, message.ordering_key, str(error))
    return Record.of(event, message.ordering_key)


def _others(attributes: Mapping[str, str]) -> dict[str, str]:
    """Return the attributes that belong to neither CloudEvents nor the mesh."""
    return {
        name: value
        for name, value in attributes.items()
        if name not in _OWN and not name.startswith((HTTP_PREFIX, f"{COMPACT}-"))
    }
