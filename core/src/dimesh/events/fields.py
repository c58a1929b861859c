"""The fields of an event with their limits and checks, shared by the event and its codecs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from dimesh.errors import EventError, PayloadError
from dimesh.events import strictjson
from dimesh.events.metadata import EventMetadata, check_text
from dimesh.events.names import show

JSON: Final = "application/json"
MAX_PAYLOAD: Final = 64 * 1024 * 1024
"""The maximum size of a payload in bytes. Backends may set a lower limit."""
VERSION: Final = "1.0.0"
"""The default schema version."""
MAX_VERSION: Final = 64
"""The maximum length of a schema version in characters."""

Headers = Mapping[str, str | bytes]
NO_HEADERS: Final[Headers] = MappingProxyType({})


class EventFields:
    """The fields of an event while they are filled in; :class:`~dimesh.events.event.Event` makes them read-only."""

    __slots__ = (
        "_embeddable",
        "_event_type",
        "content_type",
        "data",
        "headers",
        "metadata",
        "schema_version",
    )

    _event_type: str
    _embeddable: bool | None
    metadata: EventMetadata
    data: bytes
    """The payload's bytes, exactly as they are sent. Empty if there is no payload."""
    schema_version: str
    content_type: str
    """The media type of :attr:`data`: ``application/json`` unless a foreign sender set another one."""
    headers: Headers


def freeze_headers(headers: Headers) -> Headers:
    """Return a read-only copy of ``headers``.

    Raises:
        EventError: a name is not a string of 1 to 1,024 characters, a value is neither str nor bytes, or one
            of them contains a lone surrogate.
    """
    if not isinstance(headers, Mapping):
        raise EventError(
            f"headers must be a dict with values of type str or bytes, not {type(headers).__name__}"
        )
    for name, value in headers.items():
        check_text("header name", name)
        if not name:
            raise EventError("a header has an empty name")
        if isinstance(value, str):
            check_text(f"header {show(name)}:", value, MAX_PAYLOAD)
        elif not isinstance(value, bytes):
            raise EventError(
                f"the value of header {show(name)} is {type(value).__name__}; it must be str or bytes"
            )
    return MappingProxyType(dict(headers)) if headers else NO_HEADERS


def check_version(version: str) -> str:
    """Return ``version`` if it is a valid schema version.

    Raises:
        EventError: it is not a string of 1 to 64 characters.
    """
    if version.__class__ is str and version.isascii() and 0 < len(version) <= MAX_VERSION:
        return version
    check_text("schema_version", version, MAX_VERSION)
    if not version:
        raise EventError("schema_version is empty: omit it, or use a version such as '1.0.0'")
    return str.__str__(version)


def check_size(data: bytes) -> bytes:
    """Return ``data`` if it is within the size limit of a payload.

    Raises:
        PayloadError: it is larger than :data:`MAX_PAYLOAD`.
    """
    if len(data) > MAX_PAYLOAD:
        raise PayloadError(
            f"the payload has {len(data):,} bytes, more than the limit of {MAX_PAYLOAD:,}: store it elsewhere "
            "and send its address"
        )
    return data


def is_json(content_type: str) -> bool:
    """Return whether a media type is JSON: ``application/json``, ``text/json`` or any ``…+json``, with or without
    parameters.
    """
    media = content_type.split(";", 1)[0].strip().lower()
    return media in {JSON, "text/json"} or media.endswith("+json")


def embeddable(event: EventFields) -> bool:
    """Return whether the payload's bytes can be embedded in a JSON document unchanged: they are strict JSON, without
    leading or trailing white space, which would be lost.
    """
    if event._embeddable is not None:
        return event._embeddable
    data = event.data
    return is_json(event.content_type) and data == data.strip(b" \t\r\n") and strictjson.is_strict(data)
