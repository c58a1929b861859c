"""Follows one object of one source: position first, then the snapshot, then the stream from that position.

A position is stored only when everything before it is published and acknowledged, so nothing is lost whatever happens, and
what is repeated has the same event ids.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, Protocol, cast

from msgspec.structs import replace

from dimesh.bus.engine import EventBus
from dimesh.bus.retry import RetryPolicy
from dimesh.capabilities import Capability
from dimesh.cdc.drift import EVERY, Registrar, SchemaWatch
from dimesh.cdc.events import GAP_TYPE, REPAIRED_TYPE, SCHEMA_TYPE, CDCEvent, key_text, ordering_key
from dimesh.cdc.rows import LastRow, completed
from dimesh.cdc.state import Progress, ProgressLog
from dimesh.cdc.store import RowStore
from dimesh.errors import (
    BusClosedError,
    CredentialsError,
    SourceObjectError,
    SourcePositionLostError,
    SourceUnavailableError,
)
from dimesh.events.event import Event
from dimesh.events.metadata import EventMetadata
from dimesh.spi.cdc import CDCSource, Change, ChangeBatch, DeletionLog, Describes, Gap, Operation

log = logging.getLogger("dimesh.cdc")

BACKOFF: Final = RetryPolicy(base=0.5, maximum=60.0)
CREDENTIALS_WAIT: Final = 60.0
"""Seconds between tries while the credentials are rejected: more often would lock the account."""
MAX_FAILURES: Final = 5
"""Unexpected errors in a row after which the object counts as in error (it is still tried, slowly)."""


DELETES: Final = 500
"""Deletes that a repair publishes together."""


class Phase(Enum):
    """What a runner does."""

    WAITING = "waiting"
    SNAPSHOT = "snapshot"
    STREAM = "stream"
    PAUSED = "paused"
    BACKOFF = "backoff"
    FAILED = "failed"
    STOPPED = "stopped"


class CDCObserver(Protocol):
    """Is told what happened; must not raise."""

    def change_captured(self, source: str, change: Change) -> None:
        """A change was published and acknowledged."""
        ...

    def gap_detected(self, source: str, gap: Gap) -> None:
        """Changes may be missing."""
        ...


@dataclass(slots=True)
class RunnerStats:
    """Counters since the start."""

    changes: int = 0
    snapshot_rows: int = 0
    snapshot_total: int | None = None
    """About how many rows the snapshot has, as far as the source says."""
    snapshot_eta: float | None = None
    """Seconds that the snapshot takes from now on, about; None: not known, or there is none."""
    gaps: int = 0
    errors: int = 0
    last_error: str | None = None
    last_change: datetime | None = None
    """Source time of the last change."""


class ObjectRunner:
    """See the module."""

    def __init__(
        self,
        connector_id: str,
        source: CDCSource,
        object_: str,
        bus: EventBus,
        progress_log: ProgressLog,
        pillar: str,
        observer: CDCObserver | None,
        rng: random.Random,
        rows: RowStore | None = None,
        skew: float = 1.0,
        registry: Registrar | None = None,
    ) -> None:
        self.object = object_
        self.stats = RunnerStats()
        self.phase = Phase.WAITING
        self.progress: Progress | None = None
        self.updated: datetime | None = None
        self.resumed = asyncio.Event()
        self.resumed.set()
        self.allowed = asyncio.Event()
        """Cleared while somebody outside this process asks for a pause."""
        self.allowed.set()
        self._connector_id = connector_id
        self._source = source
        self._bus = bus
        self._log = progress_log
        self._pillar = pillar
        self._observer = observer
        self._rng = rng
        self._rows = rows
        self._skew = skew
        self._key = f"cdc/{connector_id}/{object_}"
        self._schema: SchemaWatch | None = None
        if (
            registry is not None
            and Capability.DESCRIBED in source.capabilities
            and isinstance(source, Describes)
        ):
            self._schema = SchemaWatch(source, object_, f"{self.topic}.{object_}", registry, self._say_schema)
        self._failures = 0
        self._pending: Gap | None = None
        """A gap that is not published yet."""

    @property
    def topic(self) -> str:
        """Where the changes go."""
        return f"cdc.{self._source.system}"

    async def run(self) -> None:
        """Follow until cancelled, or until the object cannot be captured at all."""
        watching = asyncio.create_task(self._watch_schema()) if self._schema is not None else None
        try:
            while True:
                wait = await self._once()
                if wait is None:
                    return
                self.phase = Phase.BACKOFF if self.phase is not Phase.FAILED else self.phase
                await self._bus.clock.sleep(wait)
        finally:
            if watching is not None:
                watching.cancel()
            self.stopped()

    def stopped(self) -> None:
        """Say so in the phase; that it failed stays to be seen."""
        if self.phase is not Phase.FAILED:
            self.phase = Phase.STOPPED

    async def _watch_schema(self) -> None:
        assert self._schema is not None
        while True:
            await self._bus.clock.sleep(EVERY)
            self._schema.forget_what_was_asked()
            await self._schema.look()

    async def _say_schema(self, found: dict[str, Any]) -> None:
        await self._bus.publish_many(self.topic, [self._notice(SCHEMA_TYPE, found)], keys=[self.object])

    async def _once(self) -> float | None:
        """Follow until something goes wrong; seconds to wait before the next try, None to give up."""
        try:
            await self._follow()
            self._failures = 0
            return 0.05  # a stream that ended by itself: open it again
        except SourcePositionLostError as error:
            self._note(error)
            self._pending = Gap(self.object, str(error))
            return 0.0
        except SourceUnavailableError as error:
            self._note(error)
            return max(BACKOFF.delay(min(self._failures, 10), self._rng), error.retry_after)
        except CredentialsError as error:
            self._note(error)
            self.phase = Phase.FAILED
            return CREDENTIALS_WAIT
        except SourceObjectError as error:
            self._note(error)
            self.phase = Phase.FAILED
            return None
        except BusClosedError:
            return None
        except Exception as error:
            self._note(error)
            log.warning("%s, object %s: %s", self._connector_id, self.object, error, exc_info=error)
            if self._failures >= MAX_FAILURES:
                self.phase = Phase.FAILED
            return BACKOFF.delay(min(self._failures, 10), self._rng)

    def _note(self, error: Exception) -> None:
        self._failures += 1
        self.stats.errors += 1
        self.stats.last_error = f"{type(error).__name__}: {error}"[:500]

    async def _follow(self) -> None:
        progress = self.progress = await self._log.load(self._key)
        await self._pause()
        if self._schema is not None:
            await self._schema.look()
        if self._rows is not None and progress is None:
            await self._rows.clear(self._key)
        elif self._rows is not None and self._rows.last_state and progress is not None:
            await self._rows.recover(self._key, progress.batch)
        if self._pending is not None:
            # The old position is good for nothing: the stream begins anew before the rows are read.
            progress = await self._gap(self._pending, await self._source.position(self.object))
            self._pending = None
        if progress is None:
            position = await self._source.position(self.object)
            # After a reset the readings have other numbers than before.
            progress = Progress(position=position, epoch=int(self._bus.clock.time() * 1_000))
            await self._store((), progress)
        if progress.phase == "snapshot":
            progress = await self._snapshot(progress)
        self.phase = Phase.STREAM
        stream = self._source.stream(self.object, progress.position)
        async with aclosing(cast(Any, stream)) as batches:
            async for batch in batches:
                read = self._now()
                await self._pause()
                progress = await self._batch(batch, progress, read)
                if progress.phase == "snapshot":
                    return  # a gap: the next turn repairs it

    async def _snapshot(self, progress: Progress) -> Progress:
        self.phase = Phase.SNAPSHOT
        began, before = self._bus.clock.monotonic(), progress.rows
        batches: AsyncIterator[ChangeBatch] = self._source.snapshot(self.object, progress.resume)
        async with aclosing(cast(Any, batches)) as opened:
            async for batch in opened:
                read = self._now()
                await self._pause()
                self.stats.snapshot_total = batch.estimated_total or self.stats.snapshot_total
                changes = [item for item in batch.items if isinstance(item, Change)]
                progress = replace(progress, resume=batch.position, rows=progress.rows + len(changes))
                progress = await self._publish(changes, progress, read)
                self.stats.snapshot_rows += len(changes)
                if self.stats.snapshot_total is not None and progress.rows > before:
                    each = (self._bus.clock.monotonic() - began) / (progress.rows - before)
                    left = max(self.stats.snapshot_total - progress.rows, 0)
                    self.stats.snapshot_eta = round(each * left, 1)
        self.stats.snapshot_eta = None
        repair, rows = progress.repair, progress.rows
        end = self._bus.clock.time()
        deleted: int | None = None
        if repair:
            progress, deleted = await self._delete_unseen(progress)
        progress = progress.streaming(end)
        extra = [self._repaired(repair, rows, deleted)] if repair else []
        await self._store(extra, progress)
        return progress

    async def _delete_unseen(self, progress: Progress) -> tuple[Progress, int | None]:
        """Publish a delete for each row that was there before the gap and that the repair did not see; how many. None: the
        rows are not remembered, and the source does not remember them either. A row that is there throughout is in the
        snapshot, so none of those is lost; one that came meanwhile is not remembered yet, or seen.
        """
        deleted = 0
        if self._rows is None:
            if not isinstance(self._source, DeletionLog):
                return progress, None
            async with aclosing(cast(Any, self._source.deleted(self.object))) as batches:
                async for batch in batches:
                    progress = await self._publish(batch.items, progress, self._now())
                    deleted += len(batch.items)
            self.stats.changes += deleted
            return progress, deleted
        while keys := await self._rows.unseen(self._key, progress.generation, DELETES):
            now = self._now()
            changes = [
                Change(
                    f"repair-{progress.reading}:{primary_key}",
                    Operation.DELETE,
                    name or self.object,
                    json.loads(primary_key),
                    None,
                    None,
                    now,
                    metadata={"found_by": "repair", "cause": progress.repair},
                )
                for name, _, primary_key in (key.rpartition("\n") for key in keys)
            ]
            progress = await self._publish(changes, progress, now)
            deleted += len(changes)
        self.stats.changes += deleted
        return progress, deleted

    async def _batch(self, batch: ChangeBatch, progress: Progress, read: datetime) -> Progress:
        self._failures = 0
        gaps = [item for item in batch.items if isinstance(item, Gap)]
        before, progress = progress, self._after(gaps, replace(progress, position=batch.position))
        # All of a batch with its position, gaps too: a crash would forget those that came later.
        progress = await self._publish(batch.items, progress, read, before)
        changes = [item for item in batch.items if isinstance(item, Change)]
        if changes:
            self.stats.changes += len(changes)
            self.stats.last_change = changes[-1].timestamp
        self._tell(gaps)
        await self._source.acknowledge(self.object, batch.position)
        return progress

    async def _gap(self, gap: Gap, position: bytes) -> Progress:
        """Say so on the topic, and have the object read again; then the stream goes on from the position."""
        known = self.progress or Progress(position=position)
        progress = self._after([gap], replace(known, position=position))
        progress = await self._publish([gap], progress, self._now())
        self._tell([gap])
        return progress

    @staticmethod
    def _after(gaps: Sequence[Gap], progress: Progress) -> Progress:
        """What is to be done after gaps."""
        causes = [gap.cause for gap in gaps if gap.resnapshot]
        return progress.again("; ".join(dict.fromkeys(causes))) if causes else progress

    def _tell(self, gaps: Sequence[Gap]) -> None:
        for gap in gaps:
            self.stats.gaps += 1
            log.warning(
                "%s, object %s: changes may be missing: %s", self._connector_id, self.object, gap.cause
            )
            if self._observer is not None:
                self._observer.gap_detected(self._connector_id, gap)

    def _told(self, gap: Gap) -> Event:
        return self._notice(
            GAP_TYPE,
            {
                "cause": gap.cause,
                "since": gap.since.isoformat() if gap.since else None,
                "until": gap.until.isoformat() if gap.until else None,
                "resnapshot": gap.resnapshot,
            },
        )

    # -- publishing ------------------------------------------------------------------------------

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._bus.clock.time(), UTC)

    async def _publish(
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
            await self._store((), progress)
            return progress
        progress = replace(progress, batch=progress.batch + 1)
        # A row that changed before a gap may be gone after it: what came with the gap is not seen by its repair.
        generation = streamed.generation if streamed is not None else progress.generation
        end = streamed.snapshot_end if streamed is not None else 0.0
        now, rows = self._now(), self._rows
        changes = [change for item in items for change in (item.repair if isinstance(item, Gap) else (item,))]
        if self._schema is not None:
            await self._schema.before(changes)
        keys = [self._row_key(change) for change in changes]
        last: dict[str, LastRow | None] = {}
        stored: dict[str, bytes] = {}
        if streamed is not None and rows is not None and rows.last_state and changes:
            stored = await rows.rows(self._key, list(dict.fromkeys(keys)))
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
            found = CDCEvent.of(
                change, self._source.system, read, image, during, reading if read_anew else ""
            )
            events.append(found.to_event(self._pillar, now))
            order.append(ordering_key(change.object, key.rpartition("\n")[2]))

        for item in items:
            if isinstance(item, Gap):
                events.append(self._told(item))
                order.append(self.object)
                for change in item.repair:
                    add(dataclasses.replace(change, as_of=read) if change.after is not None else change, True)
                if not item.resnapshot:
                    deleted = sum(1 for change in item.repair if change.operation is Operation.DELETE)
                    events.append(self._repaired(item.cause, len(item.repair) - deleted, deleted))
                    order.append(self.object)
            else:
                add(item, item.operation is Operation.SNAPSHOT)
        gone = [key for key, row in last.items() if row is None]
        # Remembered before it is published, and forgotten after: a crash in between leaves one too many, never too few.
        if rows is not None and last and rows.last_state:
            there = {key: row.packed() for key, row in last.items() if row is not None}
            # A row that a snapshot read is as it was read, published or not: it stays.
            were = {key: stored.get(key) for key in (last if streamed is not None else gone)}
            await rows.remember(self._key, progress.batch, there, gone, generation, were)
        elif rows is not None and len(gone) < len(last):
            there_only = [key for key, row in last.items() if row is not None]
            await rows.present(self._key, there_only, generation)
        await self._store(events, progress, order)
        if rows is not None and gone:
            await rows.gone(self._key, gone)
        if self._observer is not None:
            for change in changes:
                self._observer.change_captured(self._connector_id, change)
        return progress

    def _row_key(self, change: Change) -> str:
        """What a row is remembered by: of a channel of several objects with the object's name before it."""
        key = key_text(change.primary_key)
        return key if change.object == self.object else f"{change.object}\n{key}"

    def _repaired(self, cause: str, rows: int, deleted: int | None) -> Event:
        return self._notice(REPAIRED_TYPE, {"cause": cause, "rows": rows, "deleted": deleted})

    async def _store(
        self, events: Sequence[Event], progress: Progress, keys: Sequence[str] | None = None
    ) -> None:
        await self._log.publish(self.topic, events, keys or [self.object] * len(events), self._key, progress)
        self.progress = progress
        self.updated = self._now()

    def _notice(self, kind: str, payload: dict[str, Any]) -> Event:
        metadata = EventMetadata(
            source_pillar=self._pillar,
            source_agent=f"cdc.{self._source.system}",
            tags={"source_system": self._source.system, "object_type": self.object},
        )
        return Event(kind, metadata, {"connector_id": self._connector_id, "object": self.object, **payload})

    async def _pause(self) -> None:
        if self.resumed.is_set() and self.allowed.is_set():
            return
        before, self.phase = self.phase, Phase.PAUSED
        while not (self.resumed.is_set() and self.allowed.is_set()):
            await self.resumed.wait()
            await self.allowed.wait()
        self.phase = before
