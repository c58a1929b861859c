"""The publisher of one object's changes. Its order of steps survives a crash at any moment: it stages the rows, then publishes
the events and stores the position (in one transaction, if the bus supports that), then removes deleted rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from msgspec.structs import replace

from dimesh.bus.engine import EventBus
from dimesh.cdc.events import (
    GAP_TYPE,
    MISSING_TYPE,
    REPAIRED_TYPE,
    SCHEMA_TYPE,
    STATUS_TYPE,
    VERIFIED_TYPE,
    CDCEvent,
    ordering_key,
    row_key,
)
from dimesh.cdc.row_images import RowState, as_change, complete_image
from dimesh.cdc.schema_drift import SchemaDriftMonitor
from dimesh.cdc.state import Progress, ProgressLog, progress_key
from dimesh.events.event import Event
from dimesh.events.metadata import EventMetadata
from dimesh.spi.cdc import Change, Gap, Operation
from dimesh.spi.state import RowStore


class CDCObserver(Protocol):
    """An observer of change capture. Its methods must not raise errors."""

    def change_captured(self, source: str, change: Change) -> None:
        """Observe a change that was published and acknowledged."""
        ...

    def gap_detected(self, source: str, gap: Gap) -> None:
        """Observe a gap: changes may be missing."""
        ...


class ChangePublisher:
    """Publishes the changes of one object.

    Args:
        connector_id: the id of the connector.
        system: the name of the source system.
        object_: the captured object.
        bus: the bus.
        progress_log: the store of the progress.
        pillar: the pillar of the events.
        observer: the observer of the changes.
        rows: the store of the rows.
        skew: seconds by which the source's clock may differ from ours.
        topic: the topic of the changes.
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
        topic: str,
    ) -> None:
        self.key = progress_key(connector_id, object_)
        self.topic = topic
        self.schema: SchemaDriftMonitor | None = None
        """The monitor that checks each change before it is published; None if the source does not describe its objects."""
        self.progress: Progress | None = None
        """The progress that was stored last; None before the first."""
        self.unchanged = 0
        """The number of rows that were read again and not published, since nothing had changed."""
        self._connector_id = connector_id
        self._system = system
        self._object = object_
        self.notice_key = f"{connector_id}:{object_}"
        """The ordering key of events about the capture itself."""
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
        """Publish changes and gaps, and store the progress after them.

        Args:
            items: the changes and gaps, in order.
            progress: the progress to store.
            read: the time at which the items were read.
            streamed: the progress before the items, if they come from the stream. None: they come from a snapshot or a
                repair, and their rows replace the stored ones instead of following them.

        Returns:
            The stored progress.
        """
        if not items:
            return await self.store((), progress)
        progress = replace(progress, batch=progress.batch + 1)
        # A row that changed before a gap may have been deleted in it, so changes of this batch are not seen by its repair.
        generation = streamed.generation if streamed is not None else progress.generation
        end = streamed.snapshot_end if streamed is not None else 0.0
        now, rows = self.now(), self._rows
        changes = [change for item in items for change in (item.repair if isinstance(item, Gap) else (item,))]
        if self.schema is not None:
            await self.schema.check(changes)
        keys = [row_key(change, self._object) for change in changes]
        last: dict[str, RowState | None] = {}
        stored: dict[str, bytes] = {}
        follows = streamed is not None or progress.relisting
        if follows and rows is not None and rows.last_state and changes:
            stored = await rows.rows(self.key, list(dict.fromkeys(keys)))
            last = {key: RowState.unpack(row) for key, row in stored.items()}
        key_of_next = iter(keys)
        events: list[Event] = []
        order: list[str] = []

        # Rows that an interrupted snapshot reads again belong to the same reading; any other batch is a reading of its own.
        reading = (
            progress.snapshot_epoch if streamed is None else f"{streamed.snapshot_epoch}/{progress.batch}"
        )

        published: list[Change] = []
        compares = follows and rows is not None and rows.last_state

        def add(change: Change, key: str, is_row: bool) -> None:
            image, last[key] = complete_image(change, last.get(key), read, self._skew)
            during = end > 0 and change.timestamp.timestamp() < end
            found = CDCEvent.from_change(
                change, self._system, read, image, during, reading if is_row else "", self._connector_id
            )
            events.append(found.to_event(self._pillar, now))
            order.append(ordering_key(self._connector_id, change.object, key.rpartition("\n")[2]))
            published.append(change)

        for item in items:
            if isinstance(item, Gap):
                events.append(self._gap(item))
                order.append(self.notice_key)
                for change in item.repair:
                    row = dataclasses.replace(change, as_of=read) if change.after is not None else change
                    add(row, next(key_of_next), True)
                if item.repaired:
                    deleted = sum(1 for change in item.repair if change.operation is Operation.DELETE)
                    events.append(self.repaired(item.cause, len(item.repair) - deleted, deleted))
                    order.append(self.notice_key)
                continue
            key, shown = next(key_of_next), item
            if compares and item.operation is Operation.SNAPSHOT and not item.partial:
                found_change = as_change(item, last.get(key), reading)
                if found_change is None:  # nothing is published, and the row counts as read now
                    last[key] = complete_image(item, None, read, self._skew)[1]
                    continue
                shown = found_change
            add(shown, key, shown.operation is Operation.SNAPSHOT)
        self.unchanged += len(changes) - len(published)
        removed = [key for key, row in last.items() if row is None]
        # Rows are staged before the events are published, and removed after it: a crash leaves a row too many, never too few.
        if rows is not None and last and rows.last_state:
            present = {key: row.pack() for key, row in last.items() if row is not None}
            # The state of a row that a snapshot read is valid whether it was published or not, so it is never rolled back, unless
            # the next reading would be compared with it.
            previous = {key: stored.get(key) for key in (last if follows else removed)}
            await rows.stage(self.key, progress.batch, present, removed, generation, previous)
        elif rows is not None and len(removed) < len(last):
            await rows.mark_seen(self.key, [key for key, row in last.items() if row is not None], generation)
        progress = await self.store(events, progress, order)
        if rows is not None and removed:
            await rows.remove(self.key, removed)
        if self._observer is not None:
            for change in published:
                self._observer.change_captured(self._connector_id, change)
        return progress

    async def store(
        self, events: Sequence[Event], progress: Progress, keys: Sequence[str] | None = None
    ) -> Progress:
        """Publish events and store the progress; return the stored progress."""
        progress = replace(progress, at=self._bus.clock.time())
        await self._log.publish(
            self.topic, events, keys or [self.notice_key] * len(events), self.key, progress
        )
        self.progress = progress
        return progress

    async def publish_schema_change(self, found: dict[str, Any]) -> None:
        """Publish that the fields of the object changed."""
        await self._bus.publish_many(self.topic, [self._notice(SCHEMA_TYPE, found)], keys=[self.notice_key])

    async def publish_verified(self, found: dict[str, Any]) -> None:
        """Publish what a verification of the object found."""
        await self._bus.publish_many(self.topic, [self._notice(VERIFIED_TYPE, found)], keys=[self.notice_key])

    def repaired(self, cause: str, rows: int, deleted: int | None) -> Event:
        """Return the event that reports the repair of a gap."""
        return self._notice(REPAIRED_TYPE, {"cause": cause, "rows": rows, "deleted": deleted})

    def missing(self, cause: str, keys: Sequence[Mapping[str, Any]]) -> Event:
        """Return the event that reports rows which a repair did not see, and which may or may not have been deleted."""
        return self._notice(MISSING_TYPE, {"cause": cause, "primary_keys": list(keys)})

    def status(self, phase: str, previous: str, since: float, error: str) -> Event:
        """Return the event that reports a change of phase."""
        progress = self.progress
        return self._notice(
            STATUS_TYPE,
            {
                "phase": phase,
                "previous_phase": previous,
                "since": datetime.fromtimestamp(since, UTC).isoformat(),
                "error": error or None,
                "repair": (progress.repair or None) if progress is not None else None,
            },
        )

    def now(self) -> datetime:
        """Return the time of the bus's clock."""
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
            tags={
                "source_system": self._system,
                "connector_id": self._connector_id,
                "object_type": self._object,
            },
        )
        return Event(kind, metadata, {"connector_id": self._connector_id, "object": self._object, **payload})
