"""CloudEvents 1.0 at the border of the mesh: binary and structured mode, and the JSON batch format.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md

============================  ========================================================================
attribute                     event
============================  ========================================================================
id, type, time                event id, type, timestamp
source                        ``/dimesh/<pillar>/<agent>``, both percent-encoded
datacontenttype               content type
traceparent                   trace and span id, if they are W3C ids; else ``traceid`` and ``spanid``
schemaversion, priority       schema version, priority
parentspanid, targetpillar,   the fields of the same names, if they are set
targetagent, correlationid,
causationid
tags                          the tags, as the text of a JSON object
============================  ========================================================================

All other attributes of a foreign event are kept in ``event.headers`` as ``ce-<attribute>`` and are written again. So
are a foreign source, type, time or traceparent that the mesh would write differently, as long as the event's own field
still has the same meaning: if an event gets another sender, that sender is written. A foreign source becomes the
agent, without a pillar; a foreign type is converted to lower-case words. Other headers stay inside the mesh.

Attributes are text, as they are in binary mode: an integer or boolean of a structured event is written as text.
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
from dimesh.events.event import Event, restore
from dimesh.events.fields import JSON, MAX_VERSION, check_size, embeddable, freeze_headers, is_json
from dimesh.events.metadata import MAX_FIELD, EventMetadata, as_utc, check_text
from dimesh.events.names import MAX_TYPE, check_type, show
from dimesh.events.trace import format_traceparent, parse_traceparent
from dimesh.events.types import EventPriority

CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"
BATCH_CONTENT_TYPE: Final = "application/cloudevents-batch+json; charset=utf-8"
HTTP_PREFIX: Final = "ce-"
KAFKA_PREFIX: Final = "ce_"
KEPT: Final = "ce-"
"""The prefix of the event headers that hold foreign attributes."""

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
    """Return the headers and the body of a message in binary mode.

    Args:
        event: the event.
        prefix: the prefix of attribute names: ``ce-`` for HTTP, NATS and Pub/Sub, ``ce_`` for Kafka, ``cloudEvents:`` for AMQP.
        percent: whether values are percent-encoded. None: only with the prefix ``ce-``, as HTTP requires (Pub/Sub does not).

    Raises:
        EventError: a foreign attribute cannot be written.
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
    """Return the event of a message in binary mode.

    Args:
        headers: the headers. Case is ignored in their names, and headers without the prefix are ignored.
        body: the body. It counts as JSON if there is no content type.
        prefix: see :func:`to_binary`.
        percent: see :func:`to_binary`.

    Raises:
        EventError: an attribute is missing, is given twice, or is not valid.
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
            raise EventError(f"not a CloudEvent: the attribute {name} is given twice, with different values")
    return _event(attributes, bytes(body))


# -- structured --------------------------------------------------------------------------------------


def to_structured(event: Event) -> bytes:
    """Return the event as one JSON object, to be sent as :data:`CONTENT_TYPE`. Data that is not JSON becomes ``data_base64``.

    Raises:
        EventError: a foreign attribute cannot be written.
    """
    found: dict[str, Any] = dict(_attributes(event))
    if embeddable(event):
        found["data"] = msgspec.Raw(event.data)
    elif event.data:
        found["data_base64"] = event.data
    return _encode(found)


def from_structured(body: bytes | str) -> Event:
    """Return the event that a JSON object describes.

    Raises:
        EventError: the body is not strict JSON, or an attribute is missing or not valid.
    """
    strictjson.loads(body)
    return _read_structured(body)


def to_batch(events: Sequence[Event]) -> bytes:
    """Return a JSON array of structured events, to be sent as :data:`BATCH_CONTENT_TYPE`.

    Raises:
        EventError: see :func:`to_structured`.
    """
    return b"[" + b",".join(map(to_structured, events)) + b"]"


def from_batch(body: bytes | str) -> list[Event]:
    """Return the events of a batch.

    Raises:
        EventError: see :func:`from_structured`; the message gives the index of the event. No event is returned.
    """
    strictjson.loads(body)
    events: list[Event] = []
    try:
        events.extend(_read_structured(bytes(item)) for item in _decode_array(body))
    except msgspec.MsgspecError as error:
        raise EventError("not a batch of CloudEvents: a batch is a JSON array") from error
    except EventError as error:
        raise type(error)(f"event {len(events)} of the batch: {error}") from error
    return events


def _read_structured(body: bytes | str) -> Event:
    try:
        found = _decode_object(body)
    except msgspec.MsgspecError as error:
        raise EventError("not a CloudEvent: a structured event is a JSON object") from error
    data = found.pop("data", None)
    encoded = found.pop("data_base64", None)
    if data is not None and encoded is not None:
        raise EventError("not a CloudEvent: it has both data and data_base64")
    attributes: dict[str, str] = {}
    for name, raw in found.items():
        value = strictjson.loads(bytes(raw))
        if value is not None:  # null stands for an absent attribute
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
            # Text of another media type is embedded as a JSON string.
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
        f"not a CloudEvent: attribute {show(name)} is {type(value).__name__}; it must be a string, an integer or a "
        "boolean"
    )


# -- attributes --------------------------------------------------------------------------------------


def _attributes(event: Event) -> dict[str, str]:
    """Return all attributes as text."""
    m = event.metadata
    kept = _kept(event)

    def kept_or_own(name: str, meaning: Callable[[str], object], expected: object, own: str) -> str:
        # The foreign text, as long as it still has the meaning of the event's own field.
        text = kept.get(name)
        return text if text is not None and meaning(text) == expected else own

    found = {
        "specversion": "1.0",
        "id": m.event_id,
        "source": kept_or_own("source", _sender, (m.source_pillar, m.source_agent), _source(m)),
        "type": kept_or_own("type", _type, event._event_type, event._event_type),
        "time": kept_or_own("time", _time, m.timestamp, m.timestamp.isoformat().replace("+00:00", "Z")),
        "datacontenttype": event.content_type,
        "schemaversion": kept_or_own(
            "schemaversion", lambda _: "1.0.0", event.schema_version, event.schema_version
        ),
        "priority": kept_or_own("priority", lambda _: EventPriority.NORMAL, m.priority, m.priority.value),
    }
    traceparent = format_traceparent(m.trace_id, m.span_id)
    if traceparent is not None:
        found["traceparent"] = kept_or_own("traceparent", _trace, (m.trace_id, m.span_id), traceparent)
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
        raise EventError(f"not a CloudEvent 1.0: specversion is {show(version)}")
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
                f"not a CloudEvent: time is {show(time)}; it must be an RFC 3339 time with an offset"
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

    # The remaining attributes have no field, or are not valid for it.
    for attribute, value in attributes.items():
        _check_name(attribute)
        kept[attribute] = value
    metadata = EventMetadata(**fields)
    event = restore(name, metadata, check_size(data), schema_version, content_type)
    # Only attributes that would be written differently have to be kept.
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
            f"not a CloudEvent: {show(name)} is not an attribute name; use lower-case letters and digits"
        )


def _check_content_type(content_type: str) -> None:
    # It is written into a header unchanged, where a line break would start another header.
    check_text("datacontenttype", content_type)
    if not content_type or not content_type.isascii() or not content_type.isprintable():
        raise EventError(f"{show(content_type)} is not a content type: use printable ASCII characters")


def _source(metadata: EventMetadata) -> str:
    pillar, agent = metadata.source_pillar, metadata.source_agent
    return f"/dimesh/{quote(pillar, safe='')}/{quote(agent, safe='')}"


def _sender(source: str) -> tuple[str, str]:
    """Return the pillar and the agent that a source names."""
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
    """Return the event type for a foreign type: the same name if it is valid, else the most similar valid name."""
    try:
        return check_type(kind)
    except EventError:
        words = (re.sub(r"[^a-z0-9_-]+", "-", word.lower()).strip("-_") for word in kind.split("."))
        name = ".".join(word for word in words if word)
        if not name[:1].isalpha():
            name = f"ce.{name}" if name else "ce"
        return check_type(name[:MAX_TYPE].rstrip("."))


def _time(text: str) -> datetime | None:
    """Parse an RFC 3339 time to the microsecond; None if the text is not one."""
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    date, fraction, offset = found.groups()
    try:
        # Digits beyond microseconds are cut off; the text itself is kept.
        moment = datetime.fromisoformat(f"{date}{(fraction or '')[:7]}{offset.upper()}".replace("t", "T"))
        return as_utc(moment)
    except ValueError:
        return None


def _trace(text: str) -> tuple[str, str] | None:
    found = parse_traceparent(text)
    return None if found is None else (found.trace_id, found.span_id)


def _tags(text: str | None) -> dict[str, str] | None:
    """Parse tags as :func:`_attributes` writes them; None for any other text."""
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
    raise EventError(f"not a CloudEvent: header {show(name)} is {type(value).__name__}; it must be text")


# -- HTTP header values (HTTP protocol binding 1.0.2, section 3.1.3.2) ---------------------------------

_HTTP_SAFE: Final = "".join(map(chr, range(0x21, 0x7F))).replace("%", "").replace('"', "")


def _percent_encode(value: str) -> str:
    return quote(value, safe=_HTTP_SAFE)


def _percent_decode(name: str, text: str) -> str:
    text = text.strip(" \t")
    if len(text) > 1 and text[0] == text[-1] == '"':
        # Some senders put values in quotes, as HTTP allows for other headers.
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise EventError(f"not a CloudEvent: header {show(name)} is not percent-encoded UTF-8") from error
