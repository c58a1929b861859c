"""Prints an event as one line for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from dimesh.errors import CodecError, PayloadError

if TYPE_CHECKING:
    from dimesh.events import Event
    from dimesh.ops.changes import ChangeSummary, FieldChange
    from dimesh.spi.bus import Delivery

MAX_PAYLOAD: Final = 300
"""The number of characters of a payload that a line shows."""
MAX_FIELDS: Final = 8
"""The number of fields of a change that a line shows."""
MAX_VALUE: Final = 60
"""The number of characters of a field's value that a line shows."""


def event_line(delivery: Delivery, ids: bool = False) -> str:
    """Return the line of a record. It may contain control characters of the event: the output escapes them.

    Args:
        delivery: the record.
        ids: whether to show the id and the trace of the event.
    """
    where = f"{delivery.partition}/{delivery.offset}"
    try:
        event = delivery.record.event
    except CodecError as error:
        return f"{where}  not an event: {error}"
    metadata = event.metadata
    sender = f"{metadata.source_pillar}:{metadata.source_agent}".strip(":")
    shown = f"id={metadata.event_id}  trace={metadata.trace_id}  " if ids else ""
    return (
        f"{metadata.timestamp:%Y-%m-%d %H:%M:%S}  {where}  {event.event_type.value}  {sender}  {shown}"
        f"{content_of(event)}"
    )


def content_of(event: Event) -> str:
    """Return the row and the fields of a change event, or the beginning of any other payload."""
    from dimesh.ops.changes import summarize_change

    change = summarize_change(event)
    if change is not None:
        return _change(change)
    try:
        text = json.dumps(event.payload, ensure_ascii=False)
    except PayloadError:
        text = repr(event.data[:MAX_PAYLOAD])
    return text if len(text) <= MAX_PAYLOAD else f"{text[:MAX_PAYLOAD]}… ({len(event.data):,} bytes)"


def _change(change: ChangeSummary) -> str:
    fields = [_field(field, change) for field in change.fields[:MAX_FIELDS]]
    if len(change.fields) > MAX_FIELDS:
        fields.append(f"… {len(change.fields) - MAX_FIELDS} more")
    return f"{change.object} {key_of(change.key)}  {change.operation}  {', '.join(fields)}".rstrip()


def key_of(key: Mapping[str, Any]) -> str:
    """Return the primary key of a row, as in ``id=7``."""
    return " ".join(
        f"{_cut(name)}={_cut(value if isinstance(value, str) else _json(value))}"
        for name, value in key.items()
    )


def _field(field: FieldChange, change: ChangeSummary) -> str:
    name = _cut(field.name)
    if change.operation == "delete":
        return f"{name}: {_value(field.before)}"
    if change.operation != "update":
        return f"{name}: {_value(field.after)}"
    return f"{name}: {_value(field.before) if field.known_before else '?'} -> {_value(field.after)}"


def _value(value: Any) -> str:
    return _cut(_json(value))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}…"
