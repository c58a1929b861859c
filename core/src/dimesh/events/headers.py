"""Metadata as string headers, for transports that support nothing else (HTTP, Kafka, AMQP, e-mail).

On the way, header names lose their case, and values lose leading and trailing spaces and break at control characters.
Values that would not survive are therefore percent-encoded as UTF-8; ordinary values stay readable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, unquote

from dimesh.errors import EventError
from dimesh.events.names import show
from dimesh.events.trace import format_traceparent, parse_traceparent

TAG: Final = "tag-"
TRACEPARENT: Final = "traceparent"

TEXT_FIELDS: Final = (
    "event_id",
    "trace_id",
    "span_id",
    "parent_span_id",
    "source_pillar",
    "source_agent",
    "target_pillar",
    "target_agent",
    "correlation_id",
    "causation_id",
)
"""The metadata fields that are text. The other fields are timestamp, priority and tags."""

_FIELDS: Final = {field.replace("_", "-"): field for field in TEXT_FIELDS}
_HARMED = re.compile(r"[^\x20-\x7e]|%|^ | $")
_PRINTABLE: Final = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")


def write_headers(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers for the fields of an ``EventMetadata``, which documents the rules."""
    headers: dict[str, str] = {}
    for name, field in _FIELDS.items():
        value = fields[field]
        if value is not None and not (value == "" and field.startswith("source_")):
            headers[name] = _write(value)
    headers["timestamp"] = fields["timestamp"].isoformat()
    headers["priority"] = fields["priority"].value
    for tag, value in fields["tags"].items():
        headers[TAG + _write_name(tag)] = _write(value)
    traceparent = format_traceparent(fields["trace_id"], fields["span_id"])
    if traceparent is not None:
        headers[TRACEPARENT] = traceparent
    return headers


def read_headers(headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields for an ``EventMetadata``, which checks and documents them.

    Raises:
        EventError: a header is not text, is not percent-encoded UTF-8, or is given twice with different values.
    """
    found: dict[str, str] = {}
    fields: dict[str, Any] = {}
    tags: dict[str, str] = {}
    for given, value in headers.items():
        name = given.lower()
        if name not in _KNOWN and not name.startswith(TAG):
            continue
        if not isinstance(value, str):
            raise EventError(
                f"the value of header {show(given)} is {type(value).__name__}; it must be a string"
            )
        if found.setdefault(name, value) != value:
            raise EventError(f"header {show(name)} is given twice, with different values")
        if name.startswith(TAG):
            tags[_read(name, name[len(TAG) :])] = _read(name, value)
        elif name in _FIELDS:
            fields[_FIELDS[name]] = _read(name, value)
    if "timestamp" in found:
        fields["timestamp"] = _read_time(found["timestamp"])
    if "priority" in found:
        fields["priority"] = found["priority"].strip()
    if "trace_id" not in fields and TRACEPARENT in found:
        # The caller's span is the parent. An invalid header is ignored, as the standard requires.
        caller = parse_traceparent(found[TRACEPARENT])
        if caller is not None:
            fields["trace_id"] = caller.trace_id
            fields.setdefault("parent_span_id", caller.span_id)
    fields["tags"] = tags
    return fields


_KNOWN: Final = frozenset({*_FIELDS, "timestamp", "priority", TRACEPARENT})


def _write(value: str) -> str:
    if _HARMED.search(value) is None:
        return str.__str__(value)
    text = quote(value, safe=_PRINTABLE + " ")
    # Only leading and trailing spaces are lost on the way; those between words stay readable.
    inner = text.strip(" ")
    lead = len(text) - len(text.lstrip(" "))
    return "%20" * lead + inner + "%20" * (len(text) - len(inner) - lead)


def _write_name(name: str) -> str:
    # Transports may lower-case a name, so capitals are encoded too; quote does not encode them.
    text = quote(name, safe="")
    return re.sub(r"(%[0-9A-F]{2})|([A-Z~])", _encode_capital, text)


def _encode_capital(found: re.Match[str]) -> str:
    escaped: str | None = found[1]
    return escaped.lower() if escaped else f"%{ord(found[2]):02x}"


def _read(name: str, text: str) -> str:
    try:
        return unquote(text, errors="strict") if "%" in text else text
    except UnicodeDecodeError as error:
        raise EventError(f"header {show(name)} is not percent-encoded UTF-8") from error


def _read_time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise EventError(
            f"header 'timestamp' is {show(text)}; it must be an ISO 8601 time with an offset"
        ) from error
