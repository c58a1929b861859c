"""The events of change capture."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from dimesh.cdc.row_images import RowImage, complete_image
from dimesh.events.event import Event
from dimesh.events.metadata import EventMetadata
from dimesh.spi.cdc import Before, Change, Operation

NAMESPACE: Final = uuid.UUID("6b2f7a9e-3d0c-5c55-9f6e-0f6d1c7a41f2")
"""The namespace of the event ids of changes, which are UUIDs of version 5: the same change always has the same id."""
_NAMESPACE: Final = NAMESPACE.bytes
_key_encoder: Final = json.JSONEncoder(sort_keys=True, ensure_ascii=False, default=str)
_quote: Final = json.encoder.encode_basestring
GAP_TYPE: Final = "cdc.gap"
REPAIRED_TYPE: Final = "cdc.repaired"
MISSING_TYPE: Final = "cdc.missing"
SCHEMA_TYPE: Final = "cdc.schema_changed"
STATUS_TYPE: Final = "cdc.status"
VERIFIED_TYPE: Final = "cdc.verified"


@dataclass(frozen=True, slots=True)
class CDCOffset:
    """The position of a connector in the changes of one object."""

    connector_id: str
    source_system: str
    table_or_object: str
    offset_value: str
    updated_at: datetime
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CDCEvent:
    """One change of one row.

    ``before`` and ``after`` are the row before and after the change; None if there was no row, or it is not known.
    """

    operation: Operation
    source_system: str
    table_or_object: str
    primary_key: Mapping[str, Any]
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    timestamp: datetime = field(default_factory=lambda: datetime.now(UTC))
    sequence: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    identity: str | None = None
    """The source's own id of the change; None: it is derived from key, sequence and time."""
    before_from: Before = Before.NONE
    """The origin of ``before``."""
    changed_fields: Sequence[str] = ()
    partial: bool = False
    """Whether ``after`` has only the changed fields, because the rest of the row is not known."""
    actor: str | None = None
    own: bool = False
    """Whether we made the change ourselves. The event is also tagged ``own_write``, so that handlers that write to the source
    can ignore it."""
    transaction: str | None = None
    snapshot: bool = False
    """Whether the change was found by reading the rows and not reported by the source."""
    during_snapshot: bool = False
    """Whether the change happened before the last snapshot ended. The snapshot's rows may be newer; later changes follow."""
    api_version: str | None = None
    visible: datetime | None = None
    """The time at which the source first made the change available."""
    as_of: datetime | None = None
    """The time at which ``after`` was read, if later than the change: it may contain later changes."""
    read: datetime | None = None
    """The time at which we read the change."""
    connector_id: str = ""
    """The connector that captured the change. Two accounts of one system have rows with the same key, so rows are told apart by
    connector, object and key."""

    @classmethod
    def from_change(
        cls,
        change: Change,
        source_system: str,
        read: datetime | None = None,
        image: RowImage | None = None,
        during_snapshot: bool = False,
        reading: str = "",
        connector_id: str = "",
    ) -> CDCEvent:
        """Return the event of a change.

        Args:
            change: the change that the source yielded.
            source_system: the name of the source system.
            read: the time at which the change was read.
            image: the row before and after the change; None: as far as the change itself contains it.
            during_snapshot: whether the change happened before the last snapshot ended.
            reading: the name of the snapshot that read the row; empty for a change of the stream. It becomes part of the
                event id: a row that a later snapshot finds in the same state may have changed in between, and a
                consumer that drops repeated ids would otherwise keep the state in between.
            connector_id: the connector that captured the change.
        """
        if image is None:
            image, _ = complete_image(change, None, change.timestamp, 0.0)
        metadata = change.metadata
        if image.changed_fields and "changed_fields" not in metadata:
            metadata = {**metadata, "changed_fields": list(image.changed_fields)}
        if change.not_current and change.as_of is None and "not_current" not in metadata:
            metadata = {**metadata, "not_current": list(change.not_current)}
        return cls(
            change.operation,
            source_system,
            change.object,
            change.primary_key,
            image.before,
            image.after,
            change.timestamp,
            change.sequence,
            metadata,
            f"{reading}:{change.identity}" if reading else change.identity,
            image.before_from,
            image.changed_fields,
            image.partial,
            change.actor,
            change.own,
            change.transaction,
            change.operation is Operation.SNAPSHOT or metadata.get("found_by") in ("repair", "listing"),
            during_snapshot,
            change.api_version,
            change.visible,
            change.as_of,
            read,
            connector_id,
        )

    @property
    def event_id(self) -> str:
        """The event id, which is the same for every repetition of the change."""
        own = self.identity or f"{key_text(self.primary_key)}|{self.sequence}|{self.timestamp.isoformat()}"
        system = f"{self.source_system}|{self.connector_id}" if self.connector_id else self.source_system
        name = f"{system}|{self.table_or_object}|{self.operation.value}|{own}"
        return _uuid(name)

    @property
    def ordering_key(self) -> str:
        """The ordering key: the changes of one row stay in order."""
        return ordering_key(self.connector_id, self.table_or_object, key_text(self.primary_key))

    def to_event(self, pillar: str, now: datetime | None = None) -> Event:
        """Return the event, of type ``cdc.<operation>``.

        Args:
            pillar: the pillar of the event.
            now: the time of publication; None: the system's time.

        Raises:
            PayloadError: a row has a value that JSON cannot represent.
        """
        operation = self.operation.value
        tags = {
            "cdc_operation": operation,
            "source_system": self.source_system,
            "object_type": self.table_or_object,
        }
        if self.connector_id:
            tags["connector_id"] = self.connector_id
        if self.own:
            tags["own_write"] = "true"
        metadata = EventMetadata(
            event_id=self.event_id,
            source_pillar=pillar,
            source_agent=f"cdc.{self.source_system}",
            timestamp=self.timestamp,
            tags=tags,
        )
        since = self.visible or self.read
        return Event(
            f"cdc.{operation}",
            metadata,
            {
                "operation": operation,
                "source_system": self.source_system,
                "connector_id": self.connector_id or None,
                "object": self.table_or_object,
                "primary_key": dict(self.primary_key),
                "before": _dict(self.before),
                "before_from": self.before_from.value,
                "after": _dict(self.after),
                "partial": self.partial,
                "changed_fields": list(self.changed_fields),
                "timestamp": self.timestamp.isoformat(),
                "sequence": self.sequence,
                "actor": self.actor,
                "own_write": self.own,
                "transaction": self.transaction,
                "snapshot": self.snapshot,
                "during_snapshot": self.during_snapshot,
                "as_of": self.as_of.isoformat() if self.as_of is not None else None,
                "api_version": self.api_version,
                "lag": {
                    "source": _seconds(self.timestamp, self.visible),
                    "ours": _seconds(since, (now or datetime.now(UTC)) if since is not None else None),
                },
                "metadata": dict(self.metadata),
            },
        )


def _dict(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return row if row is None or row.__class__ is dict else dict(row)


def _seconds(since: datetime | None, until: datetime | None) -> float | None:
    """Return the seconds between two times; 0 if they are negative, which two clocks can cause."""
    return None if since is None or until is None else max((until - since).total_seconds(), 0.0)


def key_text(primary_key: Mapping[str, Any]) -> str:
    """Return a primary key as text: the same text for the same key."""
    if len(primary_key) == 1:  # the text of the encoder, in a fifth of its time
        ((name, value),) = primary_key.items()
        if value.__class__ is str:
            return f"{{{_quote(name)}: {_quote(value)}}}"
        if value.__class__ is int:
            return f"{{{_quote(name)}: {value}}}"
    return _key_encoder.encode(dict(primary_key))


def row_key(change: Change, object: str) -> str:
    """Return the key of a row in the store. For a channel of several objects, the key begins with the name of the row's object.

    Args:
        change: the row, or a change of it.
        object: the captured object.
    """
    key = key_text(change.primary_key)
    return key if change.object == object else f"{change.object}\n{key}"


def ordering_key(connector_id: str, object: str, key: str) -> str:
    """Return the ordering key of the row with a key in the form of :func:`key_text`. An unknown connector is empty."""
    found = f"{connector_id}:{object}:{key}" if connector_id else f"{object}:{key}"
    return found if len(found) <= 1_024 else _uuid(found)


def _uuid(name: str) -> str:
    """Return a UUID of version 5, in half the time of the standard library."""
    digest = hashlib.sha1(_NAMESPACE + name.encode("utf-8"), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"
