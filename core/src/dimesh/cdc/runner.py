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
from typing import Any, Final, Literal, cast

from msgspec.structs import replace

from dimesh.bus.engine import EventBus
from dimesh.bus.retry import RetryPolicy
from dimesh.capabilities import Capability
from dimesh.cdc.drift import EVERY, Registrar, SchemaWatch
from dimesh.cdc.publisher import CDCObserver, ChangePublisher
from dimesh.cdc.state import Progress, ProgressLog
from dimesh.cdc.store import RowStore
from dimesh.errors import (
    BusClosedError,
    ConfigurationError,
    CredentialsError,
    SourceObjectError,
    SourcePositionLostError,
    SourceUnavailableError,
)
from dimesh.spi.cdc import CDCSource, Change, ChangeBatch, DeletionLog, Describes, Gap, Operation

log = logging.getLogger("dimesh.cdc")

BACKOFF: Final = RetryPolicy(base=0.5, maximum=60.0)
CREDENTIALS_WAIT: Final = 60.0
"""Seconds between tries while the credentials are rejected: more often would lock the account."""
MAX_FAILURES: Final = 5
"""Unexpected errors in a row after which the object counts as in error (it is still tried, slowly)."""


DELETES: Final = 500
"""Deletes that a repair publishes together."""
LONGEST_PAUSE: Final = 3_600.0
"""Seconds that a repair waits for at most: a clock that was set back holds it no longer than that."""
Repair = Literal["auto", "manual"]


class Phase(Enum):
    """What a runner does."""

    WAITING = "waiting"
    SNAPSHOT = "snapshot"
    STREAM = "stream"
    PAUSED = "paused"
    BACKOFF = "backoff"
    FAILED = "failed"
    STOPPED = "stopped"


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
    """See the module.

    Args:
        connector_id: whose it is.
        source: where the changes come from.
        object_: what is followed.
        publisher: of this object.
        progress_log: keeps how far it is.
        rng: of jitter.
        rows: remembers which rows there are.
        registry: of the schemas of a source that describes its objects.
        repair: what becomes of a gap that only reading all rows anew can repair: that, or the wait for somebody who asks.
        repair_pause: how long a repair waits after the last one, in times of what that took.
    """

    def __init__(
        self,
        connector_id: str,
        source: CDCSource,
        object_: str,
        bus: EventBus,
        publisher: ChangePublisher,
        progress_log: ProgressLog,
        observer: CDCObserver | None,
        rng: random.Random,
        rows: RowStore | None = None,
        registry: Registrar | None = None,
        repair: Repair = "auto",
        repair_pause: float = 1.0,
    ) -> None:
        self.object = object_
        self.stats = RunnerStats()
        self.phase = Phase.WAITING
        self.resumed = asyncio.Event()
        self.resumed.set()
        self.allowed = asyncio.Event()
        """Cleared while somebody outside this process asks for a pause."""
        self.allowed.set()
        self._connector_id = connector_id
        self._source = source
        self._bus = bus
        self._publisher = publisher
        self._log = progress_log
        self._observer = observer
        self._rng = rng
        self._rows = rows
        self._repair = repair
        self._repair_pause = repair_pause
        self._schema: SchemaWatch | None = None
        if (
            registry is not None
            and Capability.DESCRIBED in source.capabilities
            and isinstance(source, Describes)
        ):
            subject = f"{publisher.topic}.{object_}"
            self._schema = SchemaWatch(source, object_, subject, registry, publisher.say_schema)
            publisher.schema = self._schema
        self._failures = 0
        self._pending: Gap | None = None
        """A gap that is not published yet."""

    @property
    def progress(self) -> Progress | None:
        """How far it is; None: not begun."""
        return self._publisher.progress

    @property
    def updated(self) -> datetime | None:
        """When that was stored."""
        progress = self._publisher.progress
        return datetime.fromtimestamp(progress.at, UTC) if progress is not None else None

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
        except (SourceObjectError, ConfigurationError) as error:
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
        key = self._publisher.key
        progress = self._publisher.progress = await self._log.load(key)
        await self._pause()
        if self._schema is not None:
            await self._schema.look()
        if self._rows is not None and progress is None:
            await self._rows.clear(key)
        elif self._rows is not None and self._rows.last_state and progress is not None:
            await self._rows.recover(key, progress.batch)
        if self._pending is not None:
            # The old position is good for nothing: the stream begins anew before the rows are read.
            progress = await self._lost(self._pending, await self._source.position(self.object))
            self._pending = None
        if progress is None:
            position = await self._source.position(self.object)
            # After a reset the readings have other numbers than before.
            progress = Progress(position=position, epoch=int(self._bus.clock.time() * 1_000))
            progress = await self._publisher.store((), progress)
        if progress.phase == "snapshot":
            progress = await self._snapshot(progress)
        await self._stream(progress)

    # -- the stream ------------------------------------------------------------------------------

    async def _stream(self, progress: Progress) -> None:
        """Until it ends, or a repair begins."""
        self.phase = Phase.STREAM
        stream = self._source.stream(self.object, progress.position)
        async with aclosing(cast(Any, stream)) as batches:
            while True:
                wait = self._until_repair(progress)
                try:
                    batch = await self._next(batches, wait) if wait is None or wait > 0 else None
                except StopAsyncIteration:
                    return
                if batch is None:  # all that is owed is repaired by one reading
                    await self._publisher.store((), progress.again(progress.owed, self._bus.clock.time()))
                    return
                read = self._publisher.now()
                await self._pause()
                progress = await self._batch(batch, progress, read)

    async def _next(self, batches: Any, wait: float | None) -> ChangeBatch | None:
        """The next batch; None: there was none in so many seconds of our clock."""
        if wait is None:
            return cast(ChangeBatch, await anext(batches))
        try:
            async with asyncio.timeout(None) as limit:
                now = asyncio.get_running_loop().time()
                timer = self._bus.clock.call_later(wait, lambda: limit.reschedule(now))
                try:
                    return cast(ChangeBatch, await anext(batches))
                finally:
                    timer.cancel()
        except TimeoutError:
            return None

    async def _batch(self, batch: ChangeBatch, progress: Progress, read: datetime) -> Progress:
        self._failures = 0
        gaps = [self._dated(item, progress, read) for item in batch.items if isinstance(item, Gap)]
        items: Sequence[Change | Gap] = batch.items
        if gaps:
            dated = iter(gaps)
            items = [next(dated) if isinstance(item, Gap) else item for item in batch.items]
        before, progress = progress, progress.owing(gaps)
        # All of a batch with its position, gaps too: a crash would forget those that came later.
        progress = await self._publisher.publish(
            items, replace(progress, position=batch.position), read, before
        )
        changes = [item for item in items if isinstance(item, Change)]
        if changes:
            self.stats.changes += len(changes)
            self.stats.last_change = changes[-1].timestamp
        self._tell(gaps)
        await self._source.acknowledge(self.object, batch.position)
        return progress

    # -- snapshots -------------------------------------------------------------------------------

    async def _snapshot(self, progress: Progress) -> Progress:
        self.phase = Phase.SNAPSHOT
        publisher = self._publisher
        began, before = self._bus.clock.monotonic(), progress.rows
        batches: AsyncIterator[ChangeBatch] = self._source.snapshot(self.object, progress.resume)
        async with aclosing(cast(Any, batches)) as opened:
            async for batch in opened:
                read = publisher.now()
                await self._pause()
                self.stats.snapshot_total = batch.estimated_total or self.stats.snapshot_total
                changes = [item for item in batch.items if isinstance(item, Change)]
                progress = replace(progress, resume=batch.position, rows=progress.rows + len(changes))
                progress = await publisher.publish(changes, progress, read)
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
        progress = progress.streaming(end, self._repair_pause)
        return await publisher.store([publisher.repaired(repair, rows, deleted)] if repair else [], progress)

    # -- gaps ------------------------------------------------------------------------------------

    async def _lost(self, gap: Gap, position: bytes) -> Progress:
        """Say that the position was, and go on from another."""
        known = self.progress or Progress(position=position)
        gap = self._dated(gap, known, self._publisher.now())
        progress = replace(known.owing([gap]), position=position)
        if progress.phase == "snapshot":
            progress = progress.again(progress.owed, self._bus.clock.time())
        progress = await self._publisher.publish([gap], progress, self._publisher.now())
        self._tell([gap])
        return progress

    def _until_repair(self, progress: Progress) -> float | None:
        """Seconds until the repair that is owed; None: nothing is owed, or it waits for somebody who asks."""
        if not progress.owed or self._repair == "manual":
            return None
        return min(progress.repair_after - self._bus.clock.time(), LONGEST_PAUSE)

    @staticmethod
    def _dated(gap: Gap, progress: Progress, now: datetime) -> Gap:
        """With the interval in which it may be: by default since we read last."""
        since = gap.since or (datetime.fromtimestamp(progress.at, UTC) if progress.at else None)
        return dataclasses.replace(gap, since=since, until=gap.until or now)

    def _tell(self, gaps: Sequence[Gap]) -> None:
        for gap in gaps:
            self.stats.gaps += 1
            log.warning(
                "%s, object %s: changes may be missing: %s", self._connector_id, self.object, gap.cause
            )
            if self._observer is not None:
                self._observer.gap_detected(self._connector_id, gap)

    async def _delete_unseen(self, progress: Progress) -> tuple[Progress, int | None]:
        """Publish a delete for each row that was there before the gap and that the repair did not see; how many. None: the
        rows are not remembered, and the source does not remember them either. A row that is there throughout is in the
        snapshot, so none of those is lost; one that came meanwhile is not remembered yet, or seen.
        """
        deleted = 0
        publisher = self._publisher
        if self._rows is None:
            if not isinstance(self._source, DeletionLog):
                return progress, None
            async with aclosing(cast(Any, self._source.deleted(self.object))) as batches:
                async for batch in batches:
                    progress = await publisher.publish(batch.items, progress, publisher.now())
                    deleted += len(batch.items)
            self.stats.changes += deleted
            return progress, deleted
        while keys := await self._rows.unseen(publisher.key, progress.generation, DELETES):
            now = publisher.now()
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
            progress = await publisher.publish(changes, progress, now)
            deleted += len(changes)
        self.stats.changes += deleted
        return progress, deleted

    async def _pause(self) -> None:
        if self.resumed.is_set() and self.allowed.is_set():
            return
        before, self.phase = self.phase, Phase.PAUSED
        while not (self.resumed.is_set() and self.allowed.is_set()):
            await self.resumed.wait()
            await self.allowed.wait()
        self.phase = before
