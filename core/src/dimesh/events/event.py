"""The event itself: typed metadata, and a payload kept as the bytes that travel."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from dimesh.errors import EventError, PayloadError
from dimesh.events import strictjson
from dimesh.events.metadata import EventMetadata
from dimesh.events.names import check_type, show
from dimesh.events.types import EventType, event_type

JSON: Final = "application/json"
MAX_PAYLOAD: Final = 64 * 1024 * 1024
"""Most bytes of one payload. Backends may set a lower limit."""

Headers = Mapping[str, str | bytes]
NO_HEADERS: Final[Headers] = MappingProxyType({})


class Event:
    """Something that happened, as a fact that nobody can change.

    Args:
        event_type: an :class:`EventType` or any other dotted lower-case name.
        metadata: who, when, how urgent; generated where left out.
        payload: any JSON value, most often a dict. Turned into bytes here, once.
        schema_version: version of the payload's schema, as the sender names it.
        headers: what travels beside the event without being part of it (transport and foreign headers).

    Raises:
        EventError: the type, metadata or version is not acceptable.
        PayloadError: the payload cannot be written as strict JSON.
    """

    __slots__ = ("_event_type", "content_type", "data", "headers", "metadata", "schema_version")

    _event_type: str
    metadata: EventMetadata
    data: bytes
    """The payload's bytes, exactly as they travel."""
    schema_version: str
    content_type: str
    """Media type of :attr:`data`; ``application/json`` unless it came from elsewhere."""
    headers: Headers

    def __init__(
        self,
        event_type: EventType | str,
        metadata: EventMetadata | None = None,
        payload: Any = None,
        schema_version: str = "1.0.0",
        *,
        headers: Headers | None = None,
    ) -> None:
        name = event_type.value if isinstance(event_type, EventType) else check_type(event_type)
        if metadata is None:
            metadata = EventMetadata()
        elif not isinstance(metadata, EventMetadata):
            raise EventError(f"metadata is {type(metadata).__name__}, an EventMetadata is needed")
        if not isinstance(schema_version, str) or not 0 < len(schema_version) <= 64:
            raise EventError(f"schema_version {show(schema_version)} is not a string of 1 to 64 characters")
        data = strictjson.dumps(payload)
        if len(data) > MAX_PAYLOAD:
            raise PayloadError(
                f"the payload has {len(data):,} bytes, at most {MAX_PAYLOAD:,} are allowed: store it "
                "elsewhere and send its address"
            )
        _set_type(self, name)
        _set_metadata(self, metadata)
        _set_data(self, data)
        _set_version(self, schema_version)
        _set_content(self, JSON)
        _set_headers(self, freeze_headers(headers) if headers else NO_HEADERS)

    # -- reading ---------------------------------------------------------------------------------

    @property
    def event_type(self) -> EventType:
        """The type; ``.value`` is its dotted name."""
        return event_type(self._event_type)

    @property
    def event_id(self) -> str:
        """Short for ``metadata.event_id``."""
        return self.metadata.event_id

    @property
    def payload(self) -> Any:
        """The payload, decoded anew at each access: changing what you got changes nothing else.

        Raises:
            PayloadError: :attr:`data` is not strict JSON, or :attr:`content_type` says it is something else.
        """
        if self.content_type != JSON and not _is_json(self.content_type):
            raise PayloadError(f"the payload is {self.content_type!r:.80}, not JSON: read event.data instead")
        return strictjson.loads(self.data)

    def replace(
        self,
        *,
        metadata: EventMetadata | None = None,
        headers: Headers | None = None,
    ) -> Event:
        """The same event with other metadata or headers; the payload's bytes are shared."""
        return restore(
            self._event_type,
            metadata or self.metadata,
            self.data,
            self.schema_version,
            self.content_type,
            self.headers if headers is None else freeze_headers(headers),
        )

    # -- JSON ------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """One JSON object: event_type, metadata, payload, schema_version (and headers, where there are)."""
        from dimesh.events.codec import encode_json

        return encode_json(self).decode("utf-8")

    @classmethod
    def from_json(cls, text: str | bytes) -> Event:
        """The event that :meth:`to_json` wrote.

        Raises:
            EventError: it is not strict JSON, or not an event.
        """
        from dimesh.events.codec import decode_json

        return decode_json(text)

    # -- value semantics -------------------------------------------------------------------------

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"events are immutable: make a new one instead of setting {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"events are immutable: {name!r} cannot be removed")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        return (
            self._event_type == other._event_type
            and self.data == other.data
            and self.metadata == other.metadata
            and self.schema_version == other.schema_version
            and self.content_type == other.content_type
            and dict(self.headers) == dict(other.headers)
        )

    def __hash__(self) -> int:
        return hash(self.metadata.event_id)

    def __repr__(self) -> str:
        # No payload: it may hold what must not stand in a log.
        return f"<Event {self._event_type} {self.metadata.event_id} {len(self.data)} bytes>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (
            restore,
            (
                self._event_type,
                self.metadata,
                self.data,
                self.schema_version,
                self.content_type,
                dict(self.headers),
            ),
        )


# The slots' own setters get past __setattr__ and cost a third of object.__setattr__.
_set_type = Event.__dict__["_event_type"].__set__
_set_metadata = Event.__dict__["metadata"].__set__
_set_data = Event.__dict__["data"].__set__
_set_version = Event.__dict__["schema_version"].__set__
_set_content = Event.__dict__["content_type"].__set__
_set_headers = Event.__dict__["headers"].__set__
_new = Event.__new__


def restore(
    name: str,
    metadata: EventMetadata,
    data: bytes,
    schema_version: str = "1.0.0",
    content_type: str = JSON,
    headers: Headers = NO_HEADERS,
) -> Event:
    """An event from parts that were checked before: for codecs and backends, not for users."""
    event = _new(Event)
    _set_type(event, name)
    _set_metadata(event, metadata)
    _set_data(event, data)
    _set_version(event, schema_version)
    _set_content(event, content_type)
    _set_headers(event, headers)
    return event


def freeze_headers(headers: Headers) -> Headers:
    """A read-only copy.

    Raises:
        EventError: a name is not a string of 1 to 1,024 characters, or a value neither str nor bytes.
    """
    for name, value in headers.items():
        if not isinstance(name, str) or not 0 < len(name) <= 1_024:
            raise EventError(f"header name {show(name)}: a string of 1 to 1,024 characters is needed")
        if not isinstance(value, (str, bytes)):
            raise EventError(f"header {show(name)} is {type(value).__name__}: a string or bytes is needed")
    return MappingProxyType(dict(headers))


def _is_json(content_type: str) -> bool:
    media = content_type.split(";", 1)[0].strip().lower()
    return media == JSON or media.endswith("+json")
