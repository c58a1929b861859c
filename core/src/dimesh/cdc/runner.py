"""Follows one object of one source: position first, then the snapshot, then the stream from that position.

A position is stored only when everything before it is published and acknowledged, so nothing is lost whatever happens, and
what is repeated has the same event ids.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, Protocol, cast

from dimesh.bus.engine import EventBus
from dimesh.bus.retry import RetryPolicy
from dimesh.cdc.events import GAP_TYPE, REPAIRED_TYPE, CDCEvent, key_text
from dimesh.cdc.state import Progress, ProgressLog
from dimesh.cdc.store import RowKeys
from dimesh.errors import (
    BusClosedError,
    CredentialsError,
    SourceObjectError,
    SourcePositionLostError,
    SourceUnavailableError,
)
from dimesh.events.event import Event
from dimesh.events.metadata import EventMetadata
from dimesh.spi.cdc import CDCSource, Change, ChangeBatch, Gap, Operation

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
        keys: RowKeys | None = None,
    ) -> None:
        self.object = object_
        self.stats = RunnerStats()
        self.phase = Phase.WAITING
        self.progress: Progress | None = None
        self.updated: datetime | None = None
        self.resumed = asyncio.Event()
        self.resumed.set()
        self._connector_id = connector_id
        self._source = source
        self._bus = bus
        self._log = progress_log
        self._pillar = pillar
        self._observer = observer
        self._rng = rng
        self._keys = keys
        self._key = f"cdc/{connector_id}/{object_}"
        self._failures = 0
        self._pending: Gap | None = None
        """A gap that is not published yet."""

    @property
    def topic(self) -> str:
        """Where the changes go."""
        return f"cdc.{self._source.system}"

    async def run(self) -> None:
        """Follow until cancelled, or until the object cannot be captured at all."""
        try:
            while True:
                wait = await self._once()
                if wait is None:
                    return
                self.phase = Phase.BACKOFF if self.phase is not Phase.FAILED else self.phase
                await self._bus.clock.sleep(wait)
        finally:
            if self.phase is not Phase.FAILED:
                self.phase = Phase.STOPPED

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
            return BACKOFF.delay(min(self._failures, 10), self._rng)
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
        if self._pending is not None:
            progress = await self._gap(self._pending)
            self._pending = None
        if progress is None:
            position = await self._source.position(self.object)
            progress = Progress(position=position)
            await self._store((), progress)
        if progress.phase == "snapshot":
            progress = await self._snapshot(progress)
        self.phase = Phase.STREAM
        stream = self._source.stream(self.object, progress.position)
        async with aclosing(cast(Any, stream)) as batches:
            async for batch in batches:
                await self._pause()
                progress = await self._batch(batch, progress)
                if progress.phase == "snapshot":
                    return  # a gap: the next turn repairs it

    async def _snapshot(self, progress: Progress) -> Progress:
        self.phase = Phase.SNAPSHOT
        batches: AsyncIterator[ChangeBatch] = self._source.snapshot(self.object, progress.resume)
        async with aclosing(cast(Any, batches)) as opened:
            async for batch in opened:
                await self._pause()
                changes = [item for item in batch.items if isinstance(item, Change)]
                progress = Progress(
                    position=progress.position,
                    resume=batch.position,
                    rows=progress.rows + len(changes),
                    repair=progress.repair,
                    generation=progress.generation,
                )
                await self._publish(changes, progress)
                self.stats.snapshot_rows += len(changes)
        repair, rows = progress.repair, progress.rows
        deleted = await self._delete_unseen(progress) if repair else None
        progress = Progress(phase="stream", position=progress.position, generation=progress.generation)
        payload = {"cause": repair, "rows": rows, "deleted": deleted}
        extra = [self._notice(REPAIRED_TYPE, payload)] if repair else []
        await self._store(extra, progress)
        return progress

    async def _delete_unseen(self, progress: Progress) -> int | None:
        """Publish a delete for each row that was there before the gap and that the repair did not see; how many. None: the
        rows are not remembered. A row that is there throughout is in the snapshot, so none of those is lost; one that came
        meanwhile is not remembered yet, or seen.
        """
        if self._keys is None:
            return None
        deleted = 0
        while keys := await self._keys.unseen(self._key, progress.generation, DELETES):
            now = datetime.fromtimestamp(self._bus.clock.time(), UTC)
            changes = [
                Change(
                    f"repair-{progress.generation}:{key}",
                    Operation.DELETE,
                    self.object,
                    json.loads(key),
                    None,
                    None,
                    now,
                    metadata={"found_by": "repair", "cause": progress.repair},
                )
                for key in keys
            ]
            await self._publish(changes, progress)
            deleted += len(changes)
        self.stats.changes += deleted
        return deleted

    async def _batch(self, batch: ChangeBatch, progress: Progress) -> Progress:
        changes = [item for item in batch.items if isinstance(item, Change)]
        gaps = [item for item in batch.items if isinstance(item, Gap)]
        progress = Progress(phase="stream", position=batch.position, generation=progress.generation)
        await self._publish(changes, progress)
        self._failures = 0
        if changes:
            self.stats.changes += len(changes)
            self.stats.last_change = changes[-1].timestamp
        await self._source.acknowledge(self.object, batch.position)
        for gap in gaps:
            progress = await self._gap(gap)
        return progress

    async def _gap(self, gap: Gap) -> Progress:
        """Say so on the topic, and have the object read again."""
        self.stats.gaps += 1
        log.warning("%s, object %s: changes may be missing: %s", self._connector_id, self.object, gap.cause)
        if gap.resnapshot:
            position = await self._source.position(self.object)
            known = self.progress.generation if self.progress is not None else 0
            progress = Progress(position=position, repair=gap.cause, generation=known + 1)
        else:
            assert self.progress is not None
            progress = self.progress
        payload = {
            "cause": gap.cause,
            "since": gap.since.isoformat() if gap.since else None,
            "until": gap.until.isoformat() if gap.until else None,
            "resnapshot": gap.resnapshot,
        }
        await self._store([self._notice(GAP_TYPE, payload)], progress)
        if self._observer is not None:
            self._observer.gap_detected(self._connector_id, gap)
        return progress

    # -- publishing ------------------------------------------------------------------------------

    async def _publish(self, changes: Sequence[Change], progress: Progress) -> None:
        found = [CDCEvent.of(change, self._source.system) for change in changes]
        events = [change.to_event(self._pillar) for change in found]
        last = {key_text(change.primary_key): change.operation for change in found} if self._keys else {}
        # Remembered before it is published, and forgotten after: a crash in between leaves one too many, never too few.
        present = [key for key, operation in last.items() if operation is not Operation.DELETE]
        gone = [key for key, operation in last.items() if operation is Operation.DELETE]
        if self._keys is not None and present:
            await self._keys.present(self._key, present, progress.generation)
        await self._store(events, progress, [change.ordering_key for change in found])
        if self._keys is not None and gone:
            await self._keys.gone(self._key, gone)
        if self._observer is not None:
            for change in changes:
                self._observer.change_captured(self._connector_id, change)

    async def _store(
        self, events: Sequence[Event], progress: Progress, keys: Sequence[str] | None = None
    ) -> None:
        await self._log.publish(self.topic, events, keys or [self.object] * len(events), self._key, progress)
        self.progress = progress
        self.updated = datetime.fromtimestamp(self._bus.clock.time(), UTC)

    def _notice(self, kind: str, payload: dict[str, Any]) -> Event:
        metadata = EventMetadata(
            source_pillar=self._pillar,
            source_agent=f"cdc.{self._source.system}",
            tags={"source_system": self._source.system, "object_type": self.object},
        )
        return Event(kind, metadata, {"connector_id": self._connector_id, "object": self.object, **payload})

    async def _pause(self) -> None:
        if not self.resumed.is_set():
            before, self.phase = self.phase, Phase.PAUSED
            await self.resumed.wait()
            self.phase = before
