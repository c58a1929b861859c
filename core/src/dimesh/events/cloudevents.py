"""CloudEvents 1.0 at the border of the mesh: binary and structured mode, and the JSON batch format.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md

============================  ========================================================================
attribute                     of the event
============================  ========================================================================
id, type, time                event id, type, timestamp
source                        ``/dimesh/<pillar>/<agent>``, both percent-encoded
datacontenttype               content type
traceparent                   trace and span id, where they are W3C ones; else ``traceid``, ``spanid``
schemaversion, priority       schema version, priority
parentspanid, targetpillar,   the fields of these names, where they are set
targetagent, correlationid,
causationid
tags                          the tags, as the text of a JSON object
============================  ========================================================================

Whatever else a foreign event carries is kept in ``event.headers`` as ``ce-<attribute>`` and comes out again.
So do a foreign source, type, time or traceparent that the mesh writes differently, as long as the event still
says the same: an event that was given another sender goes out under that one. A foreign source is the agent,
without a pillar; a foreign type is made lower-case words. Other headers stay inside the mesh.

Attributes are text, as they are in binary mode: an integer or boolean of a structured event comes out as one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, unquote

import msgspec

from dimesh.errors import EventError, PayloadError
from dimesh.events import strictjson
from dimesh.events.event import (
    JSON,
    MAX_VERSION,
    Event,
    check_size,
    embeddable,
    freeze_headers,
    is_json,
    restore,
)
from dimesh.events.metadata import MAX_FIELD, EventMetadata, as_utc, check_text
from dimesh.events.names import MAX_TYPE, check_type, show
from dimesh.events.trace import format_traceparent, parse_traceparent
from dimesh.events.types import EventPriority

CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"
BATCH_CONTENT_TYPE: Final = "application/cloudevents-batch+json; charset=utf-8"
HTTP_PREFIX: Final = "ce-"
KAFKA_PREFIX: Final = "ce_"
KEPT: Final = "ce-"
"""Event headers of this prefix hold foreign attributes."""

_NAME = re.compile(r"[a-z0-9]{1,100}")
_SOURCE = re.compile(r"/dimesh/([^/?#]*)/([^/?#]*)")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_OPTIONAL: Final = {
    "parentspanid": "parent_span_id",
    "targetpillar": "target_pillar",
    "targetagent": "target_agent",
    "correlationid": "correlation_id",
    "causationid": "causation_id",
}
_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_base64 = msgspec.json.Decoder(bytes).decode

# -- binary ------------------------------------------------------------------------------------------


def to_binary(
    event: Event, prefix: str = HTTP_PREFIX, *, percent: bool | None = None
) -> tuple[dict[str, str], bytes]:
    """Headers and body of a message.

    Args:
        event: the event.
        prefix: of attribute names: ``ce-`` of HTTP, NATS and Pub/Sub, ``ce_`` of Kafka, ``cloudEvents:`` of AMQP.
        percent: whether values are percent-encoded; None: with ``ce-`` they are, as HTTP wants it (Pub/Sub does not).

    Raises:
        EventError: a kept foreign attribute cannot be written.
    """
    attributes = _attributes(event)
    content_type = attributes.pop("datacontenttype", None)
    encoded = prefix == HTTP_PREFIX if percent is None else percent
    write: Callable[[str], str] = _percent_encode if encoded else str
    headers = {prefix + name: write(value) for name, value in attributes.items()}
    if content_type is not None:
        _check_content_type(content_type)
        headers["content-type"] = content_type
    return headers, event.data


def from_binary(
    headers: Mapping[str, str | bytes],
    body: bytes,
    prefix: str = HTTP_PREFIX,
    *,
    percent: bool | None = None,
) -> Event:
    """The event of a message in binary mode. Header names are compared without case; headers without the prefix
    are left alone. A message without content type is taken to hold JSON. ``prefix`` and ``percent``: see
    :func:`to_binary`.

    Raises:
        EventError: an attribute is missing, stands there twice, or does not fit.
    """
    attributes: dict[str, str] = {}
    lead = prefix.lower()
    encoded = prefix == HTTP_PREFIX if percent is None else percent
    for given, value in headers.items():
        name = given.lower()
        if name == "content-type":
            name = "datacontenttype"
            text = _text(given, value)
        elif name.startswith(lead):
            name = name[len(lead) :]
            text = _text(given, value)
            if encoded:
                text = _percent_decode(given, text)
        else:
            continue
        if attributes.setdefault(name, text) != text:
            raise EventError(f"not a CloudEvent: {name} stands there twice, with different values")
    return _event(attributes, bytes(body))


# -- structured --------------------------------------------------------------------------------------


def to_structured(event: Event) -> bytes:
    """One JSON object, to be sent as :data:`CONTENT_TYPE`. Data that is not JSON goes as ``data_base64``.

    Raises:
        EventError: a kept foreign attribute cannot be written.
    """
    found: dict[str, Any] = dict(_attributes(event))
    if embeddable(event):
        found["data"] = msgspec.Raw(event.data)
    elif event.data:
        found["data_base64"] = event.data
    return _encode(found)


def from_structured(body: bytes | str) -> Event:
    """The event that the JSON object ``body`` describes.

    Raises:
        EventError: not strict JSON, or an attribute is missing or does not fit.
    """
    strictjson.loads(body)
    return _read_structured(body)


def to_batch(events: Sequence[Event]) -> bytes:
    """A JSON array of structured events, to be sent as :data:`BATCH_CONTENT_TYPE`.

    Raises:
        EventError: as :func:`to_structured`.
    """
    return b"[" + b",".join(map(to_structured, events)) + b"]"


def from_batch(body: bytes | str) -> list[Event]:
    """The events of a batch; all of them, or none.

    Raises:
        EventError: as :func:`from_structured`; the message says which event.
    """
    strictjson.loads(body)
    events: list[Event] = []
    try:
        events.extend(_read_structured(bytes(item)) for item in _decode_array(body))
    except msgspec.MsgspecError as error:
        raise EventError("not a batch of CloudEvents: a JSON array is needed") from error
    except EventError as error:
        raise type(error)(f"event {len(events)} of the batch: {error}") from error
    return events


def _read_structured(body: bytes | str) -> Event:
    try:
        found = _decode_object(body)
    except msgspec.MsgspecError as error:
        raise EventError("not a CloudEvent: a JSON object is needed") from error
    data = found.pop("data", None)
    encoded = found.pop("data_base64", None)
    if data is not None and encoded is not None:
        raise EventError("not a CloudEvent: it has both data and data_base64")
    attributes: dict[str, str] = {}
    for name, raw in found.items():
        value = strictjson.loads(bytes(raw))
        if value is not None:  # null is how JSON says that an attribute is not there
            attributes[name] = _canonical(name, value)
    payload = b""
    if encoded is not None:
        try:
            payload = _decode_base64(encoded)
        except msgspec.MsgspecError as error:
            raise PayloadError("data_base64 is not base64 text") from error
    elif data is not None:
        payload = bytes(data)
        if payload[:1] == b'"' and not is_json(attributes.get("datacontenttype", JSON)):
            # Text of another media type stands there as a JSON string.
            payload = strictjson.loads(payload).encode("utf-8")
    return _event(attributes, payload)


def _canonical(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    raise EventError(
        f"not a CloudEvent: attribute {show(name)} is {type(value).__name__}, a string, integer or boolean is "
        "needed"
    )


# -- attributes --------------------------------------------------------------------------------------


def _attributes(event: Event) -> dict[str, str]:
    """All attributes, as text."""
    m = event.metadata
    kept = _kept(event)

    def still(name: str, meaning: Callable[[str], object], expected: object, own: str) -> str:
        # The foreign way to say it, as long as that is still what is to be said.
        text = kept.get(name)
        return text if text is not None and meaning(text) == expected else own

    found = {
        "specversion": "1.0",
        "id": m.event_id,
        "source": still("source", _sender, (m.source_pillar, m.source_agent), _source(m)),
        "type": still("type", _type, event._event_type, event._event_type),
        "time": still("time", _time, m.timestamp, m.timestamp.isoformat().replace("+00:00", "Z")),
        "datacontenttype": event.content_type,
        "schemaversion": still(
            "schemaversion", lambda _: "1.0.0", event.schema_version, event.schema_version
        ),
        "priority": still("priority", lambda _: EventPriority.NORMAL, m.priority, m.priority.value),
    }
    traceparent = format_traceparent(m.trace_id, m.span_id)
    if traceparent is not None:
        found["traceparent"] = still("traceparent", _trace, (m.trace_id, m.span_id), traceparent)
    else:
        found["traceid"] = m.trace_id
        if m.span_id is not None:
            found["spanid"] = m.span_id
    for name, field in _OPTIONAL.items():
        value = getattr(m, field)
        if value is not None:
            found[name] = value
    if m.tags:
        found["tags"] = strictjson.dumps(dict(m.tags)).decode("utf-8")
    for name, text in kept.items():
        if name != "traceparent" or _trace(text) is None:
            found.setdefault(name, text)
    return found


def _event(attributes: dict[str, str], data: bytes) -> Event:
    version = _required(attributes, "specversion")
    if version != "1.0":
        raise EventError(f"not a CloudEvent 1.0: its specversion is {show(version)}")
    fields: dict[str, Any] = {"event_id": _required(attributes, "id")}
    kept: dict[str, str] = {}

    source = _required(attributes, "source")
    fields["source_pillar"], fields["source_agent"] = _sender(source)
    kind = _required(attributes, "type")
    name = _type(kind)
    time = attributes.pop("time", None)
    if time is not None:
        fields["timestamp"] = _time(time)
        if fields["timestamp"] is None:
            raise EventError(
                f"not a CloudEvent: time is {show(time)}, a time as in RFC 3339 with its offset is needed"
            )
        kept["time"] = time
    content_type = attributes.pop("datacontenttype", JSON)
    _check_content_type(content_type)
    kept |= {"source": source, "type": kind}

    caller = parse_traceparent(attributes.get("traceparent", ""))
    if caller is not None:
        fields["trace_id"], fields["span_id"] = caller.trace_id, caller.span_id
        kept["traceparent"] = attributes.pop("traceparent")
    for attribute, field in {"traceid": "trace_id", "spanid": "span_id", **_OPTIONAL}.items():
        if field not in fields and attribute in attributes:
            fields[field] = attributes.pop(attribute)
    if attributes.get("priority") in _PRIORITIES:
        fields["priority"] = attributes.pop("priority")
    schema_version = "1.0.0"
    if 0 < len(attributes.get("schemaversion", "")) <= MAX_VERSION:
        schema_version = attributes.pop("schemaversion")
    tags = _tags(attributes.get("tags"))
    if tags is not None:
        fields["tags"] = tags
        del attributes["tags"]

    # What is left has no field of its own, or does not fit the one it has.
    for attribute, value in attributes.items():
        _check_name(attribute)
        kept[attribute] = value
    metadata = EventMetadata(**fields)
    event = restore(name, metadata, check_size(data), schema_version, content_type)
    # Only what would otherwise come out differently needs to be kept.
    own = _attributes(event)
    extra = {KEPT + attribute: value for attribute, value in kept.items() if own.get(attribute) != value}
    return event.replace(headers=freeze_headers(extra)) if extra else event


_PRIORITIES: Final = frozenset(priority.value for priority in EventPriority)


def _kept(event: Event) -> dict[str, str]:
    found: dict[str, str] = {}
    for header, value in event.headers.items():
        if header.startswith(KEPT):
            name = header[len(KEPT) :]
            _check_name(name)
            found[name] = _text(header, value)
    return found


def _required(attributes: dict[str, str], name: str) -> str:
    value = attributes.pop(name, "")
    if not value:
        raise EventError(f"not a CloudEvent: the attribute {name} is missing or empty")
    return value


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name == "data":
        raise EventError(
            f"not a CloudEvent: {show(name)} cannot be an attribute, those are lower-case letters and digits"
        )


def _check_content_type(content_type: str) -> None:
    # It goes into a header as it is, where a line break would begin another header.
    check_text("datacontenttype", content_type)
    if not content_type or not content_type.isascii() or not content_type.isprintable():
        raise EventError(f"{show(content_type)} cannot be a content type: printable ASCII is needed")


def _source(metadata: EventMetadata) -> str:
    pillar, agent = metadata.source_pillar, metadata.source_agent
    return f"/dimesh/{quote(pillar, safe='')}/{quote(agent, safe='')}"


def _sender(source: str) -> tuple[str, str]:
    """Pillar and agent that a source stands for."""
    found = _SOURCE.fullmatch(source)
    if found is not None:
        try:
            pillar, agent = (unquote(part, errors="strict") for part in found.groups())
        except UnicodeDecodeError:
            pass
        else:
            if len(pillar) <= MAX_FIELD and len(agent) <= MAX_FIELD:
                return pillar, agent
    return "", source[:MAX_FIELD]


def _type(kind: str) -> str:
    """The event type for a foreign type: itself where it is one, else the nearest."""
    try:
        return check_type(kind)
    except EventError:
        words = (re.sub(r"[^a-z0-9_-]+", "-", word.lower()).strip("-_") for word in kind.split("."))
        name = ".".join(word for word in words if word)
        if not name[:1].isalpha():
            name = f"ce.{name}" if name else "ce"
        return check_type(name[:MAX_TYPE].rstrip("."))


def _time(text: str) -> datetime | None:
    """The UTC time that RFC 3339 text means, to the microsecond; None if it means none."""
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    date, fraction, offset = found.groups()
    try:
        # Finer than microseconds is cut off; the text itself is kept.
        moment = datetime.fromisoformat(f"{date}{(fraction or '')[:7]}{offset.upper()}".replace("t", "T"))
        return as_utc(moment)
    except ValueError:
        return None


def _trace(text: str) -> tuple[str, str] | None:
    found = parse_traceparent(text)
    return None if found is None else (found.trace_id, found.span_id)


def _tags(text: str | None) -> dict[str, str] | None:
    """Tags as :func:`_attributes` writes them; None for text that means something else."""
    if text is None:
        return None
    try:
        found = strictjson.loads(text)
        if not isinstance(found, dict) or not found or strictjson.dumps(found) != text.encode("utf-8"):
            return None
        return dict(EventMetadata(tags=found).tags)
    except EventError:
        return None


def _text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise EventError(f"not a CloudEvent: header {show(name)} is not UTF-8") from error
    raise EventError(f"not a CloudEvent: header {show(name)} is {type(value).__name__}, text is needed")


# -- HTTP header values (HTTP protocol binding 1.0.2, section 3.1.3.2) ---------------------------------

_HTTP_SAFE: Final = "".join(map(chr, range(0x21, 0x7F))).replace("%", "").replace('"', "")


def _percent_encode(value: str) -> str:
    return quote(value, safe=_HTTP_SAFE)


def _percent_decode(name: str, text: str) -> str:
    text = text.strip(" \t")
    if len(text) > 1 and text[0] == text[-1] == '"':
        # Some senders quote values, as HTTP allows for other headers.
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise EventError(f"not a CloudEvent: header {show(name)} is not percent-encoded UTF-8") from error
