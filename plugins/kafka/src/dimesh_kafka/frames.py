"""Payloads in the frames of a schema registry, so that its serializers in other programs read what the bus writes, and the
other way round.

An event that states the version it was written with (the header ``writer-schema``, which the check of schemas sets) is framed
with the id or the GUID of that version. A message of the bus says itself that it is framed, so the bus reads it without asking
the registry, whatever its options are now. A framed message of another program that is not a CloudEvent becomes an event, whose
type follows from the subject of its schema: that of ``event.order.created`` is ``order.created``, that of ``orders-value`` is
``orders``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from types import ModuleType
from typing import Any, Final, NamedTuple

from dimesh.errors import CodecError, ConfigurationError, EventError, PluginError
from dimesh.events import Event, EventMetadata
from dimesh.events.cloudevents import KAFKA_PREFIX
from dimesh.events.event import restore
from dimesh.events.fields import freeze_headers
from dimesh.events.names import check_type, show
from dimesh.events.topics import DEAD_LETTER_SUFFIX
from dimesh.spi.bus import Record, RefusedRecord
from dimesh.spi.registry import RegistryStore, StoredSchema, context_of
from dimesh_kafka.messages import COMPACT, FRAME_HEADER, Headers, framed, from_message

WRITER_SCHEMA: Final = "writer-schema"
"""The header of an event with the subject and version that its payload was written with."""
MAX_KNOWN: Final = 10_000
"""The number of schemas that are kept."""
_TYPES: Final = {
    "JSON_SCHEMA": "application/json",
    "AVRO": "application/avro",
    "PROTOBUF": "application/x-protobuf",
}
_OTHER: Final = re.compile(r"[^a-z0-9_-]+")

OpenRegistry = Callable[[], Awaitable[RegistryStore]]
Key = tuple[str, int] | tuple[str, str]
"""The subject and version of a schema that is written; ``id`` or ``guid`` and that of one that is read."""


class _Schema(NamedTuple):
    """A schema of another program's message."""

    subject: str
    version: int
    format: str


class Frames:
    """Writes and reads frames.

    Args:
        form: the option ``wire``; None: nothing is framed, and only the bus's own frames are read.
        registry: opens the registry of the mesh; None: there is none.

    Raises:
        ConfigurationError: frames need a registry.
        PluginError: frames need the distribution ``dimesh-confluent``.
    """

    def __init__(self, form: str | None, registry: OpenRegistry | None) -> None:
        self.active = form is not None
        self._by_header = form == "confluent-header"
        self._registry = registry
        self._heads: dict[str, bytes] = {}
        """What a payload of a version is framed with, by the header of the event."""
        self._schemas: dict[Key, _Schema | None] = {}
        if not self.active:
            return
        if registry is None:
            raise ConfigurationError(
                "wire needs a schema registry: use the bus of a mesh, or give the bus class a registry"
            )
        try:
            import dimesh_confluent.wire as wire
        except ModuleNotFoundError as error:
            raise PluginError('wire needs dimesh-confluent: pip install "dimesh[confluent]"') from error
        self._wire: ModuleType = wire

    # -- writing ---------------------------------------------------------------------------------

    async def prepare(self, topic: str, records: Iterable[Record]) -> None:
        """Ask the registry about the schemas of records that were not written before.

        Raises:
            SchemaError: the registry does not answer.
            EventError: a payload cannot be framed; nothing was sent.
        """
        if not self.active or topic.endswith(DEAD_LETTER_SUFFIX):
            return
        for record in records:
            named = _writer(record)
            if named is None or named in self._heads:
                continue
            subject, _, version = named.rpartition("/")
            assert self._registry is not None
            store = await self._registry()
            number = int(version) if version.isascii() and version.isdigit() else 0
            stored = await store.get(subject, number, deleted=True) if subject and number else None
            if stored is None:
                raise EventError(
                    f"the schema {show(named)}, which an event was written with, is not registered"
                )
            _bound(self._heads)
            self._heads[named] = self._head(stored)

    def _head(self, stored: StoredSchema) -> bytes:
        if stored.format == "AVRO" and _is_bytes(stored.text):
            # Confluent's serializers leave out the length of such a payload.
            raise EventError(
                f"subject {show(stored.subject)} has the Avro type bytes, which cannot be framed: put it into a record"
            )
        path = (0,) if stored.format == "PROTOBUF" else None
        if self._by_header:
            head: bytes = self._wire.header(stored.guid, path)
        else:
            head = self._wire.prefix(stored.schema_id, path)
        return head

    def message(self, topic: str, record: Record, headers: list[tuple[str, bytes]]) -> bytes:
        """Return the value of the message of a record, for whose schema :meth:`prepare` was called.

        Args:
            topic: the topic of the record.
            record: the record.
            headers: the headers of the message, which are completed.
        """
        if not self.active or topic.endswith(DEAD_LETTER_SUFFIX):
            return record.payload
        named = _writer(record)
        head = None if named is None else self._heads.get(named)
        if head is None:
            return record.payload  # without a schema nobody could read the frame
        return framed(record.payload, head, headers, by_header=self._by_header)

    # -- reading ---------------------------------------------------------------------------------

    async def learn(self, messages: Iterable[Any]) -> None:
        """Ask the registry about the schemas of other programs' messages.

        Raises:
            SchemaError: the registry does not answer.
        """
        for message in messages:
            key = self._key(message)
            if key is None or self._schemas.get(key) is not None:
                continue
            assert self._registry is not None
            store = await self._registry()
            value = key[1]
            stored = await (store.by_id(value) if isinstance(value, int) else store.by_guid(value))
            _bound(self._schemas)
            self._schemas[key] = None if stored is None else await self._named(store, stored, message.topic)

    async def _named(self, store: RegistryStore, stored: StoredSchema, topic: str) -> _Schema:
        """Return a schema under the subject that fits the topic best, of all that have it."""
        users = list(await store.users(stored.schema_id, context_of(stored.subject), deleted=True))
        users = users or [(stored.subject, stored.version)]
        wanted = f"{topic}-value"
        best = min(users, key=lambda user: (user[0] != wanted, not user[0].startswith("event."), user))
        return _Schema(*best, stored.format)

    def _key(self, message: Any) -> Key | None:
        """Return what the frame of another program's message names; None: it has no frame."""
        headers: Headers = message.headers
        if message.value is None or (headers and headers[0][0] == COMPACT):
            return None
        frame = self._frame(message)
        if frame is None:
            return None
        return ("guid", frame.guid) if frame.guid is not None else ("id", frame.schema_id)

    def _frame(self, message: Any) -> Any:
        value = next((value for name, value in message.headers if name == FRAME_HEADER), None)
        try:
            return self._wire.read_prefix(message.value) if value is None else self._wire.read_header(value)
        except CodecError:
            return None

    def read(self, message: Any) -> Record:
        """Return the record of a message, for whose schema :meth:`learn` was called. It never fails."""
        key = self._key(message) if self.active else None
        if key is None:
            return from_message(message.key, message.value, message.headers)
        headers = [(name, value) for name, value in message.headers if name != FRAME_HEADER]
        schema = self._schemas.get(key)
        name = "" if message.key is None else message.key.decode("utf-8", "replace")
        if schema is None:
            return _refused(
                message, name, f"its frame names a schema that is not registered: {key[0]} {key[1]}"
            )
        frame = self._frame(message)
        body = bytes(message.value[frame.size :])
        if schema.format == "PROTOBUF":
            try:
                body = self._protobuf_body(message, body)
            except CodecError as error:
                return _refused(message, name, str(error))
        headers.append((WRITER_SCHEMA, f"{schema.subject}/{schema.version}".encode()))
        if any(header.lower() == f"{KAFKA_PREFIX}specversion" for header, _ in headers):
            return from_message(message.key, body, headers)
        try:
            return Record.of(_event(message, body, schema, headers), name)
        except EventError as error:
            return _refused(message, name, str(error))

    def _protobuf_body(self, message: Any, body: bytes) -> bytes:
        """Return the payload behind the path to its message, which must be the first one of the file."""
        value = next((value for name, value in message.headers if name == FRAME_HEADER), None)
        if value is not None:
            frame = self._wire.read_header(value, indexed=True)
        else:
            frame = self._wire.read_prefix(message.value, indexed=True)
            body = bytes(message.value[frame.size :])
        if frame.indexes != (0,):
            raise CodecError(
                f"its payload is the Protobuf message at {list(frame.indexes)} of its file, and only the first one can be read"
            )
        return body


def _event(message: Any, body: bytes, schema: _Schema, headers: Sequence[tuple[str, bytes]]) -> Event:
    subject = schema.subject
    plain = subject.rpartition(":")[2] if subject.startswith(":.") else subject
    kind = plain.removeprefix("event.").removesuffix("-value").lower()
    kind = ".".join(part for part in _OTHER.sub(".", kind).split(".") if part)
    metadata = EventMetadata(
        event_id=f"{message.topic}/{message.partition}/{message.offset}",
        timestamp=datetime.fromtimestamp(message.timestamp / 1_000, UTC),
    )
    found: dict[str, str | bytes] = {}
    for name, value in headers:
        if name and name.lower() != "content-type":
            found.setdefault(name, _text(value or b""))
    return restore(
        check_type(kind),
        metadata,
        body,
        content_type=_TYPES.get(schema.format, "application/octet-stream"),
        headers=freeze_headers(found),
    )


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _refused(message: Any, key: str, reason: str) -> Record:
    kept = json.dumps([(name, (value or b"").decode("latin-1")) for name, value in message.headers])
    return RefusedRecord.of(kept.encode(), message.value or b"", key, reason)


def _writer(record: Record) -> str | None:
    try:
        named = record.event.headers.get(WRITER_SCHEMA)
    except CodecError:
        return None
    return named if isinstance(named, str) else None


def _is_bytes(text: str) -> bool:
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return (found.get("type") if isinstance(found, dict) else found) == "bytes"


def _bound(known: dict[Any, Any]) -> None:
    if len(known) >= MAX_KNOWN:
        known.clear()
