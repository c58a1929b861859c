"""The event: typed metadata, and a payload that is kept as the bytes that are sent."""

from __future__ import annotations

from typing import Any, final

from dimesh.errors import EventError, PayloadError
from dimesh.events import codec, strictjson
from dimesh.events.causation import inherit
from dimesh.events.current import handling_event
from dimesh.events.fields import (
    JSON,
    NO_HEADERS,
    VERSION,
    EventFields,
    Headers,
    check_size,
    check_version,
    freeze_headers,
    is_json,
)
from dimesh.events.metadata import EventMetadata
from dimesh.events.names import check_type, show
from dimesh.events.types import EventType, event_type


@final
class Event(EventFields):
    """Something that happened, as an immutable value.

    Args:
        event_type: an :class:`EventType` or any other dotted lower-case name.
        metadata: the sender, the time, the priority and so on; generated if omitted.
        payload: any JSON value, usually a dict. It is encoded to bytes once, here.
        schema_version: the version of the payload's schema, as the sender names it.
        headers: headers that accompany the event without being part of it, such as those of a transport.

    Raises:
        EventError: the type, metadata or version is not valid.
        PayloadError: the payload cannot be encoded as strict JSON, or is larger than 64 MiB.
    """

    __slots__ = ()

    def __new__(
        cls,
        event_type: EventType | str,
        metadata: EventMetadata | None = None,
        payload: Any = None,
        schema_version: str = "1.0.0",
        *,
        headers: Headers | None = None,
    ) -> Event:
        name = event_type.value if isinstance(event_type, EventType) else check_type(event_type)
        if metadata is None:
            metadata = EventMetadata()
        elif not isinstance(metadata, EventMetadata):
            raise EventError(f"metadata must be an EventMetadata, not {type(metadata).__name__}")
        cause = handling_event.get()
        if cause is not None:
            metadata = inherit(metadata, cause.metadata)
        return restore(
            name,
            metadata,
            check_size(strictjson.dumps(payload)),
            check_version(schema_version),
            JSON,
            freeze_headers(headers) if headers else NO_HEADERS,
            True,
        )

    # -- reading ---------------------------------------------------------------------------------

    @property
    def event_type(self) -> EventType:
        """The event type; its ``.value`` is the dotted name."""
        return event_type(self._event_type)

    @property
    def event_id(self) -> str:
        """The event id: a shortcut for ``metadata.event_id``."""
        return self.metadata.event_id

    @property
    def payload(self) -> Any:
        """The payload, decoded at each access, so changes to the returned value do not affect the event.
        None if :attr:`data` is empty.

        Raises:
            PayloadError: :attr:`data` is not strict JSON, or :attr:`content_type` is not a JSON type.
        """
        if self.content_type != JSON and not is_json(self.content_type):
            raise PayloadError(f"the payload is {show(self.content_type)}, not JSON: use event.data instead")
        return strictjson.loads(self.data) if self.data else None

    def replace(
        self,
        *,
        metadata: EventMetadata | None = None,
        headers: Headers | None = None,
    ) -> Event:
        """Return a copy of the event with other metadata or headers. The payload's bytes are shared, not copied."""
        return restore(
            self._event_type,
            metadata or self.metadata,
            self.data,
            self.schema_version,
            self.content_type,
            self.headers if headers is None else freeze_headers(headers),
            self._embeddable,
        )

    # -- JSON ------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """Return the event as one JSON object: event_type, metadata, payload, schema_version, and headers if there are any.

        A payload that is not JSON becomes ``payload_base64`` (with content_type), and a header whose value is bytes goes
        into ``headers_base64``. :meth:`from_json` returns an equal event in every case.
        """
        return codec.encode_json(self).decode("utf-8")

    @classmethod
    def from_json(cls, text: str | bytes) -> Event:
        """Return the event that :meth:`to_json` encoded. Only ``event_type`` is required; all other fields have defaults.

        Raises:
            EventError: the text is not strict JSON, has an unknown field, or has a value that is not valid.
        """
        event = codec.decode_json(text)
        event.__class__ = Event
        return event  # type: ignore[return-value]

    # -- value semantics -------------------------------------------------------------------------

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"events are immutable: create a new one instead of setting {name!r}")

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
        # Without the payload, which must not end up in a log.
        return f"<Event {self._event_type} {self.metadata.event_id} {len(self.data)} bytes>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (
            _unpickle,
            (
                self._event_type,
                self.metadata,
                self.data,
                self.schema_version,
                self.content_type,
                dict(self.headers),
            ),
        )


def restore(
    name: str,
    metadata: EventMetadata,
    data: bytes,
    schema_version: str = VERSION,
    content_type: str = JSON,
    headers: Headers = NO_HEADERS,
    embeddable: bool | None = None,
) -> Event:
    """Return an event made of parts that are known to be valid. For codecs and backends, not for users.

    Args:
        name: the event type.
        metadata: the metadata.
        data: the payload's bytes.
        schema_version: the version of the payload's schema.
        content_type: the media type of ``data``.
        headers: a read-only mapping that nobody else changes, see :func:`~dimesh.events.fields.freeze_headers`.
        embeddable: the answer of :func:`~dimesh.events.fields.embeddable`, if it is known already.
    """
    # The mutable base class is filled in and then sealed, which takes half the time of bypassing Event.__setattr__.
    event = EventFields()
    event._event_type = name
    event.metadata = metadata
    event.data = data
    event.schema_version = schema_version
    event.content_type = content_type
    event.headers = headers
    event._embeddable = embeddable
    event.__class__ = Event
    return event  # type: ignore[return-value]


def decode_event(header: bytes, data: bytes) -> Event:
    """Return the event that :func:`~dimesh.events.codec.encode_header` encoded, with ``data`` as its payload's bytes.

    Raises:
        CodecError: the header is damaged, or of a newer format.
    """
    event = codec.decode_header(header, data)
    event.__class__ = Event
    return event  # type: ignore[return-value]


def _unpickle(
    name: str,
    metadata: EventMetadata,
    data: bytes,
    schema_version: str,
    content_type: str,
    headers: dict[str, str | bytes],
) -> Event:
    return restore(name, metadata, data, schema_version, content_type, freeze_headers(headers))
