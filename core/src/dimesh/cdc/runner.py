"""The runner of one object of one source: it gets the position, then reads the snapshot, then the stream from that position.

A position is stored only after everything before it is published and acknowledged. So no change is lost, whatever happens, and
a change that is repeated has the same event id.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, Literal, cast

from msgspec.structs import replace

from dimesh import contact
from dimesh.bus.engine import EventBus
from dimesh.bus.retry import RetryPolicy
from dimesh.capabilities import Capability
from dimesh.cdc.absences import Absences, publish_absences
from dimesh.cdc.health import ObjectHealth
from dimesh.cdc.publisher import CDCObserver, ChangePublisher
from dimesh.cdc.reports import ObjectReport, RunnerStats
from dimesh.cdc.schema_drift import REFRESH_INTERVAL, Registrar, SchemaDriftMonitor
from dimesh.cdc.state import Progress, ProgressLog
from dimesh.cdc.status_events import StatusFeed
from dimesh.clock import time_limit
from dimesh.errors import (
    BusClosedError,
    ConfigurationError,
    CredentialsError,
    SourceObjectError,
    SourcePositionLostError,
    SourceUnavailableError,
    describe,
)
from dimesh.printable import printable
from dimesh.spi.cdc import (
    CDCSource,
    Change,
    ChangeBatch,
    DeletionLog,
    Describes,
    Gap,
    Operation,
    ReadsRows,
    Relists,
)
from dimesh.spi.state import RowStore

log = logging.getLogger("dimesh.cdc")

BACKOFF: Final = RetryPolicy(base=0.5, maximum=60.0)
CREDENTIALS_WAIT: Final = 60.0
"""Seconds between attempts while the credentials are rejected: more frequent ones could lock the account."""
REFUSED: Final = RetryPolicy(base=15.0, maximum=600.0)
"""The pauses between attempts while the system refuses an object: somebody must change something there, such as a permission."""
MAX_FAILURES: Final = 5
"""The number of consecutive unexpected errors after which the object counts as failed. It is still retried, slowly."""
MAX_REPAIR_PAUSE: Final = 3_600.0
"""The maximum number of seconds that a repair waits, so that a clock that is set back cannot delay it longer."""
Repair = Literal["auto", "manual"]


class Phase(Enum):
    """The activity of a runner."""

    WAITING = "waiting"
    STANDBY = "standby"
    """Another process captures the object; this one takes over when that one ends."""
    SNAPSHOT = "snapshot"
    STREAM = "stream"
    PAUSED = "paused"
    BACKOFF = "backoff"
    FAILED = "failed"
    STOPPED = "stopped"


_IDLE: Final = (Phase.PAUSED, Phase.STOPPED, Phase.STANDBY)
"""The phases in which an error does not prevent anything."""


class ObjectRunner:
    """Captures one object.

    Args:
        connector_id: the id of the connector.
        source: the source.
        object_: the object.
        bus: the bus, whose clock is used.
        publisher: the publisher of the object.
        progress_log: the store of the progress.
        observer: the observer of gaps.
        rng: the source of jitter.
        rows: the store of the rows.
        registry: the registry for the schemas of a source that describes its objects.
        repair: whether a gap that only a new snapshot repairs starts one (``auto``) or waits for a request (``manual``).
        repair_pause: the time that a repair waits after the last one, as a multiple of the duration of that one.
        feed: publishes changes of phase; None: they are not published.
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
        feed: StatusFeed | None = None,
    ) -> None:
        self.object = object_
        self._feed = feed
        self.stats = RunnerStats()
        self.health = ObjectHealth(connector_id, object_, bus.clock)
        self._phase = Phase.WAITING
        self._phase_since = bus.clock.time()
        self._announced = Phase.WAITING
        self._outage = Phase.BACKOFF
        """The phase that an outage has, also while the object is tried again."""
        self.health.on_change = self._announce
        self.earlier = ObjectReport(phase="")
        """The last report of earlier runs, whose numbers are continued."""
        self.resumed = asyncio.Event()
        self.resumed.set()
        self.allowed = asyncio.Event()
        """An event that is cleared while another process requests a pause."""
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
        self._schema: SchemaDriftMonitor | None = None
        if (
            registry is not None
            and Capability.DESCRIBED in source.capabilities
            and isinstance(source, Describes)
        ):
            subject = f"{publisher.topic}.{object_}"
            self._schema = SchemaDriftMonitor(
                source, object_, subject, registry, publisher.publish_schema_change
            )
            publisher.schema = self._schema
        self._failures = 0
        self._pending: Gap | None = None
        """The gap that is to be published next; None if there is none."""

    @property
    def phase(self) -> Phase:
        """The activity of the runner."""
        return self._phase

    @phase.setter
    def phase(self, phase: Phase) -> None:
        if phase is not self._phase:
            log.info("source %s, object %s: %s", self._connector_id, printable(self.object), phase.value)
            self._phase = phase
            self.health.reading = phase in (Phase.SNAPSHOT, Phase.STREAM)
            self._phase_since = self._bus.clock.time()
        if phase in (Phase.BACKOFF, Phase.FAILED):
            self._outage = phase
        self._announce()

    @property
    def shown_phase(self) -> Phase:
        """The activity as operators see it: a source that cannot be read is backing off or has failed, also while it is tried."""
        return self._outage if self._error else self._phase

    @property
    def _error(self) -> str:
        return self.health.error if self._phase not in _IDLE else ""

    @property
    def _since(self) -> float:
        return self.health.since if self._error else max(self._phase_since, self.health.since)

    def _announce(self) -> None:
        """Publish the phase if it has changed."""
        if not self.health.error:
            self._outage = Phase.BACKOFF
        phase, previous = self.shown_phase, self._announced
        if phase is not previous:
            self._announced = phase
            if self._feed is not None:
                event = self._publisher.status(phase.value, previous.value, self._since, self._error)
                self._feed.add(event, self._publisher.notice_key)

    def report(self) -> ObjectReport:
        """Return the state as operators see it."""
        if self._phase is Phase.STREAM:
            self.health.settle()
        return self.stats.report(
            self.earlier,
            self.health,
            self.progress,
            phase=self.shown_phase.value,
            since=self._since,
            error=self._error,
        )

    @property
    def progress(self) -> Progress | None:
        """The progress that was stored last; None before the start."""
        return self._publisher.progress

    @property
    def updated(self) -> datetime | None:
        """The time at which the progress was stored; None before the start."""
        progress = self._publisher.progress
        return datetime.fromtimestamp(progress.at, UTC) if progress is not None else None

    async def run(self) -> None:
        """Capture until cancelled, or until the object cannot be captured at all."""
        contact.listener.set(self.health)
        watching = asyncio.create_task(self._watch_schema()) if self._schema is not None else None
        try:
            while True:
                wait = await self._once()
                if wait is None:
                    return
                await self._bus.clock.sleep(wait)
        finally:
            if watching is not None:
                watching.cancel()
            self.mark_stopped()

    def mark_stopped(self) -> None:
        """Set the phase to stopped, unless it is failed."""
        if self.phase is not Phase.FAILED:
            self.phase = Phase.STOPPED

    async def _watch_schema(self) -> None:
        assert self._schema is not None
        while True:
            await self._bus.clock.sleep(REFRESH_INTERVAL)
            self._schema.forget_requested_fields()
            await self._schema.refresh()

    async def _once(self) -> float | None:
        """Capture until an error occurs. Return the seconds to wait before the next attempt; None: there must be none."""
        try:
            await self._follow()
            self._failures = 0
            return 0.05  # the stream ended without an error: open it again
        except SourcePositionLostError as error:
            self.record_failure(error, Phase.BACKOFF)
            self._pending = Gap(self.object, str(error))
            return 0.0
        except SourceUnavailableError as error:
            self.record_failure(error, Phase.BACKOFF)
            return max(BACKOFF.delay(min(self._failures, 10), self._rng), error.retry_after)
        except CredentialsError as error:
            self.record_failure(error, Phase.FAILED)
            return CREDENTIALS_WAIT
        except SourceObjectError as error:
            # Not final: permissions are given back, objects are made, and incidents end.
            self.record_failure(error, Phase.FAILED)
            return REFUSED.delay(min(self._failures, 10), self._rng)
        except ConfigurationError as error:
            self.record_failure(error, Phase.FAILED)
            return None
        except BusClosedError:
            return None
        except Exception as error:
            log.warning("%s, object %s: %s", self._connector_id, self.object, error, exc_info=error)
            hopeless = self._failures + 1 >= MAX_FAILURES
            self.record_failure(error, Phase.FAILED if hopeless else Phase.BACKOFF)
            return BACKOFF.delay(min(self._failures, 10), self._rng)

    def record_failure(self, error: Exception, phase: Phase) -> None:
        """Record that capturing failed, and that the object is backing off or has failed."""
        self._failures += 1
        self.stats.errors += 1
        self.stats.last_error = describe(error)
        self._outage = phase  # before the outage is announced
        self.health.failed(error)
        self.phase = phase

    async def _follow(self) -> None:
        key = self._publisher.key
        progress = self._publisher.progress = await self._log.load(key)
        await self._pause()
        if self._schema is not None:
            await self._schema.refresh()
        if self._rows is not None and progress is None:
            await self._rows.clear(key)
        elif self._rows is not None and self._rows.last_state and progress is not None:
            await self._rows.rollback_uncommitted(key, progress.batch)
        if self._pending is not None:
            # The old position is useless: the stream gets a new one before the rows are read.
            progress = await self._record_lost_position(
                self._pending, await self._source.position(self.object)
            )
            self._pending = None
        if progress is None:
            position = await self._source.position(self.object)
            # The epoch gives snapshots after a reset other names than before.
            progress = Progress(position=position, epoch=int(self._bus.clock.time() * 1_000))
            progress = await self._publisher.store((), progress)
        if progress.phase == "snapshot":
            progress = await self._snapshot(progress)
        await self._stream(progress)

    # -- the stream ------------------------------------------------------------------------------

    async def _stream(self, progress: Progress) -> None:
        """Read the stream until it ends or a repair is due."""
        self.phase = Phase.STREAM
        stream = self._source.stream(self.object, progress.position)
        async with aclosing(cast(Any, stream)) as batches:
            while True:
                wait = self._seconds_until_repair(progress)
                try:
                    batch = await self._next(batches, wait) if wait is None or wait > 0 else None
                except StopAsyncIteration:
                    return
                if (
                    batch is None
                ):  # one snapshot repairs all pending gaps, and finds all changes that the stream leaves out
                    now = self._bus.clock.time()
                    gaps = progress.pending_repair
                    begin = progress.start_resnapshot(gaps, now) if gaps else progress.start_relisting(now)
                    await self._publisher.store((), begin)
                    return
                read = self._publisher.now()
                await self._pause()
                progress = await self._batch(batch, progress, read)

    async def _next(self, batches: Any, wait: float | None) -> ChangeBatch | None:
        """Return the next batch; None if there is none within ``wait`` seconds of our clock."""
        if wait is None:
            return cast(ChangeBatch, await anext(batches))
        try:
            async with time_limit(self._bus.clock, wait):
                return cast(ChangeBatch, await anext(batches))
        except TimeoutError:
            return None

    async def _batch(self, batch: ChangeBatch, progress: Progress, read: datetime) -> Progress:
        self._failures = 0
        gaps = [self._with_interval(item, progress, read) for item in batch.items if isinstance(item, Gap)]
        items = self._of_rows(batch.items)
        if gaps:
            dated = iter(gaps)
            items = [next(dated) if isinstance(item, Gap) else item for item in items]
        before, progress = progress, progress.with_gaps(gaps)
        unchanged = self._publisher.unchanged
        # The gaps are published in the same step as the batch and its position; in a later step, a crash would lose them.
        progress = await self._publisher.publish(
            items, replace(progress, position=batch.position), read, before
        )
        changes = [item for item in items if isinstance(item, Change)]
        found = len(changes) - (self._publisher.unchanged - unchanged)
        if found:
            self.stats.changes += found
            self.stats.note(changes[-1])
            if changes[-1].as_of is None and changes[-1].operation is not Operation.SNAPSHOT:
                self.health.delivered(min(changes[-1].timestamp, read).timestamp())
        self.health.captured()
        self._report_gaps(gaps)
        await self._source.acknowledge(self.object, batch.position)
        return progress

    def _of_rows(self, items: Sequence[Change | Gap]) -> Sequence[Change | Gap]:
        """Leave out the changes that name no row: all of them would count as changes of one row, with the key null."""
        if all(isinstance(item, Gap) or _has_key(item) for item in items):
            return items
        kept = [item for item in items if isinstance(item, Gap) or _has_key(item)]
        if not self.stats.skipped:
            log.warning(
                "source %s, object %s: a change without a key was skipped; further ones are only counted",
                self._connector_id,
                printable(self.object),
            )
        self.stats.skipped += len(items) - len(kept)
        return kept

    # -- snapshots -------------------------------------------------------------------------------

    async def _snapshot(self, progress: Progress) -> Progress:
        self.phase = Phase.SNAPSHOT
        publisher = self._publisher
        if progress.generation and progress.resume is None and isinstance(self._source, ReadsRows):
            # A read may lag behind: a row that changed a moment ago would be published as it was before, and last.
            await self._bus.clock.sleep(self._source.read_lag)
        began, before = self._bus.clock.monotonic(), progress.rows
        batches: AsyncIterator[ChangeBatch] = self._source.snapshot(self.object, progress.resume)
        async with aclosing(cast(Any, batches)) as opened:
            async for batch in opened:
                read = publisher.now()
                await self._pause()
                self.stats.snapshot_total = batch.estimated_total or self.stats.snapshot_total
                changes = [item for item in self._of_rows(batch.items) if isinstance(item, Change)]
                progress = replace(progress, resume=batch.position, rows=progress.rows + len(changes))
                progress = await publisher.publish(changes, progress, read)
                self.stats.snapshot_rows += len(changes)
                self.health.captured()
                if self.stats.snapshot_total is not None and progress.rows > before:
                    each = (self._bus.clock.monotonic() - began) / (progress.rows - before)
                    left = max(self.stats.snapshot_total - progress.rows, 0)
                    self.stats.snapshot_eta = round(each * left, 1)
        self.stats.snapshot_eta = None
        repair, rows = progress.repair, progress.rows
        end = self._bus.clock.time()
        if not (repair or progress.relisting):
            return await publisher.store((), progress.enter_streaming(end, self._repair_pause))
        absent = Absences(None)
        if self._rows is not None:
            progress, absent = await publish_absences(
                self._source, self.object, self._rows, publisher, progress, self._bus.clock
            )
        elif repair and isinstance(self._source, DeletionLog):
            # Not after a listing at an interval, which would report the same deletes again.
            progress, absent = await self._delete_logged(self._source, progress)
        self.stats.missing = absent.missing
        if absent.missing:
            log.warning(
                "source %s, object %s: %d rows are missing in the list, and the system does not say what became of them; they "
                "are not published as deleted",
                self._connector_id,
                printable(self.object),
                absent.missing,
            )
        progress = progress.enter_streaming(end, self._repair_pause)
        report = [publisher.repaired(repair, rows, absent.deleted)] if repair else []
        progress = await publisher.store(report, progress)
        self.stats.repaired += bool(repair)
        self.stats.deleted += absent.deleted or 0
        self.stats.changes += absent.deleted or 0
        return progress

    # -- gaps ------------------------------------------------------------------------------------

    async def _record_lost_position(self, gap: Gap, position: bytes) -> Progress:
        """Publish that the old position was lost, and store the new one."""
        known = self.progress or Progress(position=position)
        gap = self._with_interval(gap, known, self._publisher.now())
        progress = replace(known.with_gaps([gap]), position=position)
        if progress.phase == "snapshot":
            progress = progress.start_resnapshot(progress.pending_repair, self._bus.clock.time())
        progress = await self._publisher.publish([gap], progress, self._publisher.now())
        self._report_gaps([gap])
        return progress

    def _seconds_until_repair(self, progress: Progress) -> float | None:
        """Return the seconds until the rows are listed again, for the pending repair or for changes that the stream does not
        report; None: there is no reason to, or the repair waits for a request.
        """
        due = [progress.repair_after] if progress.pending_repair and self._repair != "manual" else []
        if isinstance(self._source, Relists):
            interval = self._source.relist_interval(self.object)
            due += [progress.relist_at(interval)] if interval is not None else []
        return min(min(due) - self._bus.clock.time(), MAX_REPAIR_PAUSE) if due else None

    @staticmethod
    def _with_interval(gap: Gap, progress: Progress, now: datetime) -> Gap:
        """Return the gap with its interval, which by default starts when the progress was last stored."""
        since = gap.since or (datetime.fromtimestamp(progress.at, UTC) if progress.at else None)
        return dataclasses.replace(gap, since=since, until=gap.until or now)

    def _report_gaps(self, gaps: Sequence[Gap]) -> None:
        for gap in gaps:
            self.stats.gaps += 1
            if gap.repaired:
                self.stats.own_repairs += 1
                self.stats.repaired += 1
                self.stats.deleted += sum(change.operation is Operation.DELETE for change in gap.repair)
            log.warning(
                "%s, object %s: changes may be missing: %s", self._connector_id, self.object, gap.cause
            )
            if self._observer is not None:
                self._observer.gap_detected(self._connector_id, gap)

    async def _delete_logged(self, source: DeletionLog, progress: Progress) -> tuple[Progress, Absences]:
        """Publish the deletes that the source has a record of. If the record is not whole, that is a gap that cannot be repaired:
        which rows existed is not known here.
        """
        deleted = 0
        publisher = self._publisher
        since = datetime.fromtimestamp(progress.gap_since, UTC) if progress.gap_since else None
        try:
            async with aclosing(cast(Any, source.deleted(self.object, since))) as batches:
                async for batch in batches:
                    progress = await publisher.publish(batch.items, progress, publisher.now())
                    deleted += len(batch.items)
        except SourcePositionLostError as error:
            gap = self._with_interval(Gap(self.object, str(error), since), progress, publisher.now())
            progress = await publisher.publish([gap], progress, publisher.now())
            self._report_gaps([gap])
            return progress, Absences(None)
        return progress, Absences(deleted)

    async def _pause(self) -> None:
        if self.resumed.is_set() and self.allowed.is_set():
            return
        before, self.phase = self.phase, Phase.PAUSED
        while not (self.resumed.is_set() and self.allowed.is_set()):
            await self.resumed.wait()
            await self.allowed.wait()
        self.phase = before


def _has_key(change: Change) -> bool:
    key = change.primary_key
    return bool(key) and None not in key.values()
