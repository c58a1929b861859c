"""Publishes what one object's snapshot, stream and repairs bring, in the order that a crash at any moment forgives: rows are
remembered, then events published and the position stored (together, where the bus can), then deleted rows are forgotten.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from msgspec.structs import replace

from dimesh.bus.engine import EventBus
from dimesh.cdc.drift import SchemaWatch
from dimesh.cdc.events import GAP_TYPE, REPAIRED_TYPE, SCHEMA_TYPE, CDCEvent, key_text, ordering_key
from dimesh.cdc.rows import LastRow, completed
from dimesh.cdc.state import Progress, ProgressLog, progress_key
from dimesh.cdc.store import RowStore
from dimesh.events.event import Event
from dimesh.events.metadata import EventMetadata
from dimesh.spi.cdc import Change, Gap, Operation


class CDCObserver(Protocol):
    """Is told what happened; must not raise."""

    def change_captured(self, source: str, change: Change) -> None:
        """A change was published and acknowledged."""
        ...

    def gap_detected(self, source: str, gap: Gap) -> None:
        """Changes may be missing."""
        ...


class ChangePublisher:
    """Of one object.

    Args:
        connector_id: whose it is.
        system: the source's name; changes go to ``cdc.<system>``.
        object_: what is followed.
        bus: where to publish.
        progress_log: keeps how far it is.
        pillar: that the changes belong to.
        observer: is told of each change.
        rows: remembers which rows there are.
        skew: seconds by which the source's clock may differ from ours.
    """

    def __init__(
        self,
        connector_id: str,
        system: str,
        object_: str,
        bus: EventBus,
        progress_log: ProgressLog,
        pillar: str,
        observer: CDCObserver | None,
        rows: RowStore | None,
        skew: float,
    ) -> None:
        self.key = progress_key(connector_id, object_)
        self.topic = f"cdc.{system}"
        self.schema: SchemaWatch | None = None
        """Is shown each change before it is published."""
        self.progress: Progress | None = None
        """As stored last."""
        self._connector_id = connector_id
        self._system = system
        self._object = object_
        self._bus = bus
        self._log = progress_log
        self._pillar = pillar
        self._observer = observer
        self._rows = rows
        self._skew = skew

    async def publish(
        self,
        items: Sequence[Change | Gap],
        progress: Progress,
        read: datetime,
        streamed: Progress | None = None,
    ) -> Progress:
        """Publish, and store how far that is.

        Args:
            items: in order.
            progress: what is stored with it.
            read: when the items were read.
            streamed: for what a stream brought, how far it was before. What a snapshot or repair finds takes the place
                of what is remembered instead of coming after it.
        """
        if not items:
            return await self.store((), progress)
        progress = replace(progress, batch=progress.batch + 1)
        # A row that changed before a gap may be gone after it: what came with the gap is not seen by its repair.
        generation = streamed.generation if streamed is not None else progress.generation
        end = streamed.snapshot_end if streamed is not None else 0.0
        now, rows = self.now(), self._rows
        changes = [change for item in items for change in (item.repair if isinstance(item, Gap) else (item,))]
        if self.schema is not None:
            await self.schema.before(changes)
        keys = [self._row_key(change) for change in changes]
        last: dict[str, LastRow | None] = {}
        stored: dict[str, bytes] = {}
        if streamed is not None and rows is not None and rows.last_state and changes:
            stored = await rows.rows(self.key, list(dict.fromkeys(keys)))
            last = {key: LastRow.unpacked(row) for key, row in stored.items()}
        key_of_next = iter(keys)
        events: list[Event] = []
        order: list[str] = []

        # What a snapshot reads a second time after an interruption is the same reading; what else is read is one by itself.
        reading = progress.reading if streamed is None else f"{streamed.reading}/{progress.batch}"

        def add(change: Change, read_anew: bool) -> None:
            key = next(key_of_next)
            image, last[key] = completed(change, last.get(key), read, self._skew)
            during = end > 0 and change.timestamp.timestamp() < end
            found = CDCEvent.of(change, self._system, read, image, during, reading if read_anew else "")
            events.append(found.to_event(self._pillar, now))
            order.append(ordering_key(change.object, key.rpartition("\n")[2]))

        for item in items:
            if isinstance(item, Gap):
                events.append(self._gap(item))
                order.append(self._object)
                for change in item.repair:
                    add(dataclasses.replace(change, as_of=read) if change.after is not None else change, True)
                if not item.resnapshot:
                    deleted = sum(1 for change in item.repair if change.operation is Operation.DELETE)
                    events.append(self.repaired(item.cause, len(item.repair) - deleted, deleted))
                    order.append(self._object)
            else:
                add(item, item.operation is Operation.SNAPSHOT)
        gone = [key for key, row in last.items() if row is None]
        # Remembered before it is published, and forgotten after: a crash in between leaves one too many, never too few.
        if rows is not None and last and rows.last_state:
            there = {key: row.packed() for key, row in last.items() if row is not None}
            # A row that a snapshot read is as it was read, published or not: it stays.
            were = {key: stored.get(key) for key in (last if streamed is not None else gone)}
            await rows.remember(self.key, progress.batch, there, gone, generation, were)
        elif rows is not None and len(gone) < len(last):
            there_only = [key for key, row in last.items() if row is not None]
            await rows.present(self.key, there_only, generation)
        progress = await self.store(events, progress, order)
        if rows is not None and gone:
            await rows.gone(self.key, gone)
        if self._observer is not None:
            for change in changes:
                self._observer.change_captured(self._connector_id, change)
        return progress

    async def store(
        self, events: Sequence[Event], progress: Progress, keys: Sequence[str] | None = None
    ) -> Progress:
        """Store how far it is, with events."""
        progress = replace(progress, at=self._bus.clock.time())
        await self._log.publish(self.topic, events, keys or [self._object] * len(events), self.key, progress)
        self.progress = progress
        return progress

    async def say_schema(self, found: dict[str, Any]) -> None:
        """Tell that the fields of the object changed."""
        await self._bus.publish_many(self.topic, [self._notice(SCHEMA_TYPE, found)], keys=[self._object])

    def repaired(self, cause: str, rows: int, deleted: int | None) -> Event:
        """Tells that a gap is repaired."""
        return self._notice(REPAIRED_TYPE, {"cause": cause, "rows": rows, "deleted": deleted})

    def now(self) -> datetime:
        """By the bus's clock."""
        return datetime.fromtimestamp(self._bus.clock.time(), UTC)

    def _gap(self, gap: Gap) -> Event:
        return self._notice(
            GAP_TYPE,
            {
                "cause": gap.cause,
                "since": gap.since.isoformat() if gap.since else None,
                "until": gap.until.isoformat() if gap.until else None,
                "resnapshot": gap.resnapshot,
            },
        )

    def _notice(self, kind: str, payload: dict[str, Any]) -> Event:
        metadata = EventMetadata(
            source_pillar=self._pillar,
            source_agent=f"cdc.{self._system}",
            tags={"source_system": self._system, "object_type": self._object},
        )
        return Event(kind, metadata, {"connector_id": self._connector_id, "object": self._object, **payload})

    def _row_key(self, change: Change) -> str:
        """What a row is remembered by: of a channel of several objects with the object's name before it."""
        key = key_text(change.primary_key)
        return key if change.object == self._object else f"{change.object}\n{key}"
