"""Changes as the mesh carries them."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from dimesh.cdc.rows import Image, completed
from dimesh.events.event import Event
from dimesh.events.metadata import EventMetadata
from dimesh.spi.cdc import Before, Change, Operation

NAMESPACE: Final = uuid.UUID("6b2f7a9e-3d0c-5c55-9f6e-0f6d1c7a41f2")
"""Event ids of changes are UUIDs of version 5 in this namespace: the same change always has the same id."""
_NAMESPACE: Final = NAMESPACE.bytes
_key_encoder: Final = json.JSONEncoder(sort_keys=True, ensure_ascii=False, default=str)
_quote: Final = json.encoder.encode_basestring
GAP_TYPE: Final = "cdc.gap"
REPAIRED_TYPE: Final = "cdc.repaired"
SCHEMA_TYPE: Final = "cdc.schema_changed"


@dataclass(frozen=True, slots=True)
class CDCOffset:
    """How far a connector has come with one object."""

    connector_id: str
    source_system: str
    table_or_object: str
    offset_value: str
    updated_at: datetime
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CDCEvent:
    """One change of one row.

    ``before`` and ``after`` are the row as it was and as it is; None where there is none (or the source does not say).
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
    """The source's own name for this change; made of key, sequence and time where it has none."""
    before_from: Before = Before.NONE
    """Where ``before`` comes from."""
    changed_fields: Sequence[str] = ()
    partial: bool = False
    """``after`` holds only what changed: nothing is known to complete it from."""
    actor: str | None = None
    own: bool = False
    """We changed it ourselves. The event is tagged ``own_write``, too, so that who writes to the source can leave it."""
    transaction: str | None = None
    snapshot: bool = False
    """Found by reading the rows, not told by the source."""
    during_snapshot: bool = False
    """It happened before the last snapshot ended, whose rows may be newer: what comes next makes up for it."""
    api_version: str | None = None
    visible: datetime | None = None
    """When the source first let it be read."""
    as_of: datetime | None = None
    """When ``after`` was read, where that was later than the change: later changes may be in it."""
    read: datetime | None = None
    """When we read it."""

    @classmethod
    def of(
        cls,
        change: Change,
        source_system: str,
        read: datetime | None = None,
        image: Image | None = None,
        during_snapshot: bool = False,
        reading: str = "",
    ) -> CDCEvent:
        """From what a source yields, and what is known of the row beside.

        ``reading`` tells one reading of the rows from the other. A row that is found to be as it was once before may
        have been another one in between; with the id of before, who leaves out repeats would keep that.
        """
        if image is None:
            image, _ = completed(change, None, change.timestamp, 0.0)
        metadata = change.metadata
        if image.changed_fields and "changed_fields" not in metadata:
            metadata = {**metadata, "changed_fields": list(image.changed_fields)}
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
            change.operation is Operation.SNAPSHOT or metadata.get("found_by") == "repair",
            during_snapshot,
            change.api_version,
            change.visible,
            change.as_of,
            read,
        )

    @property
    def event_id(self) -> str:
        """The same for every repeat of this change."""
        own = self.identity or f"{key_text(self.primary_key)}|{self.sequence}|{self.timestamp.isoformat()}"
        name = f"{self.source_system}|{self.table_or_object}|{self.operation.value}|{own}"
        return _uuid(name)

    @property
    def ordering_key(self) -> str:
        """Changes of one row stay in order."""
        return ordering_key(self.table_or_object, key_text(self.primary_key))

    def to_event(self, pillar: str, now: datetime | None = None) -> Event:
        """As an event of type ``cdc.<operation>``, published ``now``.

        Raises:
            PayloadError: a row holds what JSON cannot.
        """
        operation = self.operation.value
        tags = {
            "cdc_operation": operation,
            "source_system": self.source_system,
            "object_type": self.table_or_object,
        }
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
    """Between two clocks it may come out below nothing."""
    return None if since is None or until is None else max((until - since).total_seconds(), 0.0)


def key_text(primary_key: Mapping[str, Any]) -> str:
    """A primary key as text: the same for the same key."""
    if len(primary_key) == 1:  # as the encoder would write it, in a fifth of the time
        ((name, value),) = primary_key.items()
        if value.__class__ is str:
            return f"{{{_quote(name)}: {_quote(value)}}}"
        if value.__class__ is int:
            return f"{{{_quote(name)}: {value}}}"
    return _key_encoder.encode(dict(primary_key))


def ordering_key(object: str, key: str) -> str:
    """Of the row with that key (as :func:`key_text` gives it)."""
    found = f"{object}:{key}"
    return found if len(found) <= 1_024 else _uuid(found)


def _uuid(name: str) -> str:
    """The UUID of version 5, at half the cost of the standard library's."""
    digest = hashlib.sha1(_NAMESPACE + name.encode("utf-8"), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"
