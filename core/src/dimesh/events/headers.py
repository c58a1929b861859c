"""Metadata as string headers, for transports that have nothing else (HTTP, Kafka, AMQP, e-mail).

Header names are compared without case and values lose blanks at their ends and break at control characters on
the way. So what would not arrive unharmed is percent-encoded as UTF-8; an ordinary value reads as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, unquote

from dimesh.errors import EventError
from dimesh.events.metadata import EventMetadata
from dimesh.events.names import show
from dimesh.events.trace import format_traceparent, parse_traceparent

TAG: Final = "tag-"
TRACEPARENT: Final = "traceparent"

_PLAIN: Final = ("timestamp", "priority", "tags")
_FIELDS: Final = {
    field.replace("_", "-"): field for field in EventMetadata.__struct_fields__ if field not in _PLAIN
}
_HARMED = re.compile(r"[^\x20-\x7e]|%|^ | $")
_PRINTABLE: Final = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")


def to_headers(metadata: EventMetadata) -> dict[str, str]:
    """See :meth:`EventMetadata.to_headers`."""
    headers: dict[str, str] = {}
    for name, field in _FIELDS.items():
        value = getattr(metadata, field)
        if value is not None and not (value == "" and field.startswith("source_")):
            headers[name] = _write(value)
    headers["timestamp"] = metadata.timestamp.isoformat()
    headers["priority"] = metadata.priority.value
    for tag, value in metadata.tags.items():
        headers[TAG + _write_name(tag)] = _write(value)
    traceparent = format_traceparent(metadata.trace_id, metadata.span_id)
    if traceparent is not None:
        headers[TRACEPARENT] = traceparent
    return headers


def from_headers(headers: Mapping[str, str]) -> EventMetadata:
    """See :meth:`EventMetadata.from_headers`."""
    found: dict[str, str] = {}
    fields: dict[str, Any] = {}
    tags: dict[str, str] = {}
    for given, value in headers.items():
        name = given.lower()
        if name not in _KNOWN and not name.startswith(TAG):
            continue
        if not isinstance(value, str):
            raise EventError(f"header {show(given)} is {type(value).__name__}, a string is needed")
        if found.setdefault(name, value) != value:
            raise EventError(f"header {show(name)} stands there twice, with different values")
        if name.startswith(TAG):
            tags[_read(name, name[len(TAG) :])] = _read(name, value)
        elif name in _FIELDS:
            fields[_FIELDS[name]] = _read(name, value)
    if "timestamp" in found:
        fields["timestamp"] = _read_time(found["timestamp"])
    if "priority" in found:
        fields["priority"] = found["priority"].strip()
    if "trace_id" not in fields and TRACEPARENT in found:
        # The caller's span is this one's parent. An invalid header is as good as none.
        caller = parse_traceparent(found[TRACEPARENT])
        if caller is not None:
            fields["trace_id"] = caller.trace_id
            fields.setdefault("parent_span_id", caller.span_id)
    return EventMetadata(tags=tags, **fields)


_KNOWN: Final = frozenset({*_FIELDS, "timestamp", "priority", TRACEPARENT})


def _write(value: str) -> str:
    if _HARMED.search(value) is None:
        return str.__str__(value)
    text = quote(value, safe=_PRINTABLE + " ")
    # Blanks are harmed at the ends only; between words they stay readable.
    inner = text.strip(" ")
    lead = len(text) - len(text.lstrip(" "))
    return "%20" * lead + inner + "%20" * (len(text) - len(inner) - lead)


def _write_name(name: str) -> str:
    # A name must outlive being lower-cased, so capitals are encoded too. quote leaves them alone.
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
            f"header 'timestamp' is {show(text)}: an ISO 8601 time with its offset is needed"
        ) from error
