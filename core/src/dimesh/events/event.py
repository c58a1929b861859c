"""The event itself: typed metadata, and a payload kept as the bytes that travel."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, final

from dimesh.errors import EventError, PayloadError
from dimesh.events import strictjson
from dimesh.events.metadata import EventMetadata, check_text
from dimesh.events.names import check_type, show
from dimesh.events.types import EventType, event_type

JSON: Final = "application/json"
MAX_PAYLOAD: Final = 64 * 1024 * 1024
"""Most bytes of one payload. Backends may set a lower limit."""
VERSION: Final = "1.0.0"
"""The schema version where none is named."""
MAX_VERSION: Final = 64
"""Most characters of a schema version."""

Headers = Mapping[str, str | bytes]
NO_HEADERS: Final[Headers] = MappingProxyType({})


class _Fields:
    """The slots of an event while it is filled in; see :func:`restore`."""

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
    """The payload's bytes, exactly as they travel. Empty where there is no payload at all."""
    schema_version: str
    content_type: str
    """Media type of :attr:`data`; ``application/json`` unless it came from elsewhere."""
    headers: Headers


@final
class Event(_Fields):
    """Something that happened, as a fact that nobody can change.

    Args:
        event_type: an :class:`EventType` or any other dotted lower-case name.
        metadata: who, when, how urgent; generated where left out.
        payload: any JSON value, most often a dict. Turned into bytes here, once.
        schema_version: version of the payload's schema, as the sender names it.
        headers: what travels beside the event without being part of it (transport and foreign headers).

    Raises:
        EventError: the type, metadata or version is not acceptable.
        PayloadError: the payload cannot be written as strict JSON, or is larger than 64 MiB.
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
            raise EventError(f"metadata is {type(metadata).__name__}, an EventMetadata is needed")
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
        """The type; ``.value`` is its dotted name."""
        return event_type(self._event_type)

    @property
    def event_id(self) -> str:
        """Short for ``metadata.event_id``."""
        return self.metadata.event_id

    @property
    def payload(self) -> Any:
        """The payload, decoded anew at each access: changing what you got changes nothing else.
        None where there are no bytes at all.

        Raises:
            PayloadError: :attr:`data` is not strict JSON, or :attr:`content_type` says it is something else.
        """
        if self.content_type != JSON and not is_json(self.content_type):
            raise PayloadError(f"the payload is {show(self.content_type)}, not JSON: read event.data instead")
        return strictjson.loads(self.data) if self.data else None

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
            self._embeddable,
        )

    # -- JSON ------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """One JSON object: event_type, metadata, payload, schema_version; headers, where there are any.

        A payload that is not JSON is ``payload_base64`` instead (with content_type), a header whose value is
        bytes stands in ``headers_base64``: whatever the event, :meth:`from_json` gives an equal one back.
        """
        from dimesh.events.codec import encode_json

        return encode_json(self).decode("utf-8")

    @classmethod
    def from_json(cls, text: str | bytes) -> Event:
        """The event that :meth:`to_json` wrote. In text from elsewhere all but ``event_type`` may be left out.

        Raises:
            EventError: it is not strict JSON, has an unknown field, or a value that does not fit.
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
    """An event from parts that were checked before: for codecs and backends, not for users.

    ``headers`` must be a read-only mapping that nobody else changes (:func:`freeze_headers`). ``embeddable``
    says what is known of ``data``, see :func:`embeddable`; None has it found out when it matters.
    """
    # Filled in as the mutable base and then sealed: half the time of getting past Event.__setattr__.
    event = _Fields()
    event._event_type = name
    event.metadata = metadata
    event.data = data
    event.schema_version = schema_version
    event.content_type = content_type
    event.headers = headers
    event._embeddable = embeddable
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


def freeze_headers(headers: Headers) -> Headers:
    """A read-only copy.

    Raises:
        EventError: a name is not a string of 1 to 1,024 characters, a value is neither str nor bytes, or one
            of them holds a lone surrogate.
    """
    if not isinstance(headers, Mapping):
        raise EventError(f"headers is {type(headers).__name__}, a dict of str or bytes values is needed")
    for name, value in headers.items():
        check_text("header name", name)
        if not name:
            raise EventError("a header has an empty name")
        if isinstance(value, str):
            check_text(f"header {show(name)}:", value, MAX_PAYLOAD)
        elif not isinstance(value, bytes):
            raise EventError(f"header {show(name)} is {type(value).__name__}: a string or bytes is needed")
    return MappingProxyType(dict(headers)) if headers else NO_HEADERS


def check_version(version: str) -> str:
    """``version`` itself, if it can be a schema version.

    Raises:
        EventError: it is not a string of 1 to 64 characters.
    """
    if version.__class__ is str and version.isascii() and 0 < len(version) <= MAX_VERSION:
        return version
    check_text("schema_version", version, MAX_VERSION)
    if not version:
        raise EventError("schema_version is empty: leave it out, or use something like '1.0.0'")
    return str.__str__(version)


def check_size(data: bytes) -> bytes:
    """``data`` itself, if a payload can be that large.

    Raises:
        PayloadError: it is larger than :data:`MAX_PAYLOAD`.
    """
    if len(data) > MAX_PAYLOAD:
        raise PayloadError(
            f"the payload has {len(data):,} bytes, at most {MAX_PAYLOAD:,} are allowed: store it elsewhere "
            "and send its address"
        )
    return data


def is_json(content_type: str) -> bool:
    """Whether a media type means JSON: ``application/json``, ``text/json`` or any ``…+json``, with or without
    parameters.
    """
    media = content_type.split(";", 1)[0].strip().lower()
    return media in {JSON, "text/json"} or media.endswith("+json")


def embeddable(event: Event) -> bool:
    """Whether the payload's bytes can stand inside a JSON document as they are: strict JSON, and without the
    blanks around it that would not come out again.
    """
    if event._embeddable is not None:
        return event._embeddable
    data = event.data
    return is_json(event.content_type) and data == data.strip(b" \t\r\n") and strictjson.is_strict(data)
