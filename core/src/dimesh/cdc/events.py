"""Changes as the mesh carries them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from dimesh.events.event import Event
from dimesh.events.metadata import EventMetadata
from dimesh.spi.cdc import Change, Operation

NAMESPACE: Final = uuid.UUID("6b2f7a9e-3d0c-5c55-9f6e-0f6d1c7a41f2")
"""Event ids of changes are UUIDs of version 5 in this namespace: the same change always has the same id."""
GAP_TYPE: Final = "cdc.gap"
REPAIRED_TYPE: Final = "cdc.repaired"


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

    @classmethod
    def of(cls, change: Change, source_system: str) -> CDCEvent:
        """From what a source yields."""
        metadata = dict(change.metadata)
        if change.changed_fields:
            metadata["changed_fields"] = list(change.changed_fields)
        if change.before is not None:
            metadata["before_from"] = change.before_from.value
        return cls(
            change.operation,
            source_system,
            change.object,
            change.primary_key,
            change.before,
            change.after,
            change.timestamp,
            change.sequence,
            metadata,
            change.identity,
        )

    @property
    def event_id(self) -> str:
        """The same for every repeat of this change."""
        own = self.identity or f"{key_text(self.primary_key)}|{self.sequence}|{self.timestamp.isoformat()}"
        name = f"{self.source_system}|{self.table_or_object}|{self.operation.value}|{own}"
        return str(uuid.uuid5(NAMESPACE, name))

    @property
    def ordering_key(self) -> str:
        """Changes of one row stay in order."""
        key = f"{self.table_or_object}:{key_text(self.primary_key)}"
        return key if len(key) <= 1_024 else str(uuid.uuid5(NAMESPACE, key))

    def to_event(self, pillar: str) -> Event:
        """As an event of type ``cdc.<operation>``.

        Raises:
            PayloadError: a row holds what JSON cannot.
        """
        metadata = EventMetadata(
            event_id=self.event_id,
            source_pillar=pillar,
            source_agent=f"cdc.{self.source_system}",
            timestamp=self.timestamp,
            tags={
                "cdc_operation": self.operation.value,
                "source_system": self.source_system,
                "object_type": self.table_or_object,
            },
        )
        return Event(
            f"cdc.{self.operation.value}",
            metadata,
            {
                "operation": self.operation.value,
                "source_system": self.source_system,
                "object": self.table_or_object,
                "primary_key": dict(self.primary_key),
                "before": dict(self.before) if self.before is not None else None,
                "after": dict(self.after) if self.after is not None else None,
                "timestamp": self.timestamp.isoformat(),
                "sequence": self.sequence,
                "metadata": dict(self.metadata),
            },
        )


def key_text(primary_key: Mapping[str, Any]) -> str:
    """A primary key as text: the same for the same key."""
    return json.dumps(dict(primary_key), sort_keys=True, ensure_ascii=False, default=str)
