"""Connectors: a source at work on a bus, for some objects."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Final, cast

from dimesh.bus.engine import EventBus
from dimesh.capabilities import Capabilities, Capability
from dimesh.cdc.drift import Registrar
from dimesh.cdc.events import CDCEvent, CDCOffset
from dimesh.cdc.runner import CDCObserver, ObjectRunner, Phase
from dimesh.cdc.state import ProgressLog, StateStore
from dimesh.cdc.status import CDCConnectorStatus
from dimesh.cdc.store import SqliteCDCStore
from dimesh.clock import Clock
from dimesh.errors import (
    CDCError,
    ConfigurationError,
    CredentialsError,
    SourceUnavailableError,
    StorageError,
)
from dimesh.events.names import check_group
from dimesh.filelock import FileLock
from dimesh.spi.cdc import CDCSource, Change, ChangeBatch, CheckResult, Metered

log = logging.getLogger("dimesh.cdc")

BATCH = 100
LOOK: Final = 0.5
"""Seconds between two looks whether somebody asks for a pause."""


class CDCConnector:
    """Base of all connectors.

    A subclass gives :meth:`get_changes` and :meth:`get_snapshot` (async iterators of :class:`CDCEvent`); snapshot, hand-over,
    publishing, positions, retries and pause are done here. A connector over an SPI source is :class:`SourceConnector`.

    Args:
        connector_id: names the connector and its positions.
        source_system: changes go to ``cdc.<source_system>``.
        event_bus: where to publish.
        pillar: the pillar that the changes belong to.
        poll: seconds between two calls of :meth:`get_changes`.
        state: where positions are kept, for buses that cannot keep them; by default ``store``.
        store: remembers which rows there are, so that a repair after a gap finds deletes, and what they looked like, for
            changes whose source does not say; without it, neither.
        clock_skew: seconds by which the source's clock may differ from ours. A change so soon after its row was read by a
            snapshot gets no remembered ``before``: it may be in that row already.
        registry: a schema registry, for the schemas of a source that describes its objects.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = (
        "state",
        "store",
        "clock",
        "observer",
        "seed",
        "clock_skew",
        "registry",
    )
    """Keywords that every connector takes, beside those of its source."""

    def __init__(
        self,
        connector_id: str,
        source_system: str,
        event_bus: EventBus,
        pillar: str = "",
        *,
        poll: float = 5.0,
        state: StateStore | None = None,
        store: SqliteCDCStore | None = None,
        clock: Clock | None = None,
        observer: CDCObserver | None = None,
        seed: int | None = None,
        clock_skew: float = 1.0,
        registry: Registrar | None = None,
    ) -> None:
        self.connector_id = check_group(connector_id)
        self.source_system = source_system
        self.event_bus = event_bus
        self.pillar = pillar
        self.poll = poll
        self._clock = clock or event_bus.clock
        self._observer = observer
        self._rng = random.Random(seed)  # noqa: S311 - jitter
        atomic = Capability.ATOMIC_STATE in event_bus.capabilities
        self._log = ProgressLog(event_bus, state if state is not None or atomic else store)
        self._store = store
        self._skew = clock_skew
        self._registry = registry
        self._runners: dict[str, ObjectRunner] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._watch: asyncio.Task[None] | None = None
        self._claimed: FileLock | None = None
        self._status = CDCConnectorStatus.DISCONNECTED
        self._connect_error: str | None = None

    # -- for subclasses --------------------------------------------------------------------------

    async def get_changes(self, object: str, since: CDCOffset | None = None) -> AsyncIterator[CDCEvent]:
        """Changes after ``since``, oldest first; ends when there are no more for now. ``since.offset_value`` is the
        ``sequence`` of the last change (or what :meth:`get_position` gave).
        """
        raise NotImplementedError(f"{type(self).__name__} must implement get_changes")
        yield  # type: ignore[unreachable]  # makes it an async iterator

    async def get_snapshot(self, object: str) -> AsyncIterator[CDCEvent]:
        """All rows of now."""
        raise NotImplementedError(f"{type(self).__name__} must implement get_snapshot")
        yield  # type: ignore[unreachable]

    async def get_position(self, object: str) -> str:
        """What ``since`` is for changes from now on: by default the time, in ISO 8601."""
        return datetime.fromtimestamp(self._clock.time(), UTC).isoformat()

    @property
    def source(self) -> CDCSource:
        """The source behind; a subclass is its own."""
        return _OwnSource(self)

    # -- life ------------------------------------------------------------------------------------

    @property
    def status(self) -> CDCConnectorStatus:
        """How the connector is, as a whole."""
        if self._status is not CDCConnectorStatus.CONNECTED:
            return self._status
        phases = {runner.phase for runner in self._runners.values()}
        if Phase.FAILED in phases:
            return CDCConnectorStatus.ERROR
        if phases and phases <= {Phase.PAUSED}:
            return CDCConnectorStatus.PAUSED
        if Phase.SNAPSHOT in phases:
            return CDCConnectorStatus.SYNCING
        return CDCConnectorStatus.CONNECTED

    async def connect(self) -> None:
        """Connect to the source.

        Raises:
            CredentialsError, SourceUnavailableError
        """
        if self._status is CDCConnectorStatus.CONNECTED:
            return
        self._status = CDCConnectorStatus.CONNECTING
        try:
            await self.source.open()
        except (CredentialsError, SourceUnavailableError) as error:
            self._status = CDCConnectorStatus.ERROR
            self._connect_error = f"{type(error).__name__}: {error}"
            raise
        self._status = CDCConnectorStatus.CONNECTED
        self._connect_error = None

    async def disconnect(self) -> None:
        """Stop, and close the source."""
        await self.stop()
        await self.source.close()
        self._status = CDCConnectorStatus.DISCONNECTED

    async def start(self, objects: Sequence[str]) -> None:
        """Follow these objects, each on its own: one that fails does not stop the others.

        Raises:
            ConfigurationError: no objects, or one is followed already, or the connector runs in another process.
            CredentialsError, SourceUnavailableError: of :meth:`connect`.
            StorageError: the store cannot say whether to pause. Nothing was started.
        """
        if isinstance(objects, str) or not objects:
            raise ConfigurationError("start needs a list of objects, such as ['Contact', 'Account']")
        running = [o for o in objects if o in self._tasks and not self._tasks[o].done()]
        if running:
            raise ConfigurationError(f"{self.connector_id} follows {', '.join(running)} already")
        await self.event_bus.open()
        self._claim()
        try:
            await self.connect()
            asked = await self._asked_to_pause()
        except BaseException:
            if not self._tasks:
                self._release()
            raise
        for name in dict.fromkeys(objects):
            runner = self._runners[name] = ObjectRunner(
                self.connector_id,
                self.source,
                name,
                self.event_bus,
                self._log,
                self.pillar,
                self._observer,
                self._rng,
                self._store,
                self._skew,
                self._registry,
            )
            _let(runner, asked)
            self._tasks[name] = asyncio.create_task(
                runner.run(), name=f"dimesh-cdc-{self.connector_id}-{name}"
            )

        if self._store is not None and self._watch is None:
            self._watch = asyncio.create_task(self._look(), name=f"dimesh-cdc-{self.connector_id}-pauses")

    async def stop(self) -> None:
        """Stop following; positions stay where they are."""
        tasks = [*self._tasks.values(), *([self._watch] if self._watch is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        for runner in self._runners.values():
            runner.stopped()  # also one that was stopped before it could begin
        self._release()

    def _release(self) -> None:
        if self._claimed is not None:
            self._claimed.release()
            self._claimed = None

    def _claim(self) -> None:
        """Two processes that follow the same would overwrite each other's positions, and publish everything twice."""
        if self._store is None or self._claimed is not None:
            return
        name = hashlib.sha256(self.connector_id.encode()).hexdigest()[:12]
        lock = FileLock(Path(f"{self._store.path}-{name}.lock"))
        try:
            free = lock.acquire()
        except OSError as error:
            raise StorageError(f"{lock.path} cannot be locked: {error.strerror}") from error
        if not free:
            raise ConfigurationError(
                f"{self.connector_id} is followed by another connector, perhaps of a running 'dimesh run': stop that first"
            )
        self._claimed = lock
        self._watch = None

    async def _asked_to_pause(self) -> frozenset[str]:
        return await self._store.paused(self.connector_id) if self._store is not None else frozenset()

    async def _look(self) -> None:
        """Whether another process asks for a pause, by the store."""
        while True:
            await self._clock.sleep(LOOK)
            try:
                asked = await self._asked_to_pause()
            except StorageError as error:
                log.warning("%s: whether to pause is not known: %s", self.connector_id, error)
                continue
            for runner in self._runners.values():
                _let(runner, asked)

    def pause(self) -> None:
        """Stop after the batch that is being published; :meth:`resume` goes on."""
        for runner in self._runners.values():
            runner.resumed.clear()

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        for runner in self._runners.values():
            runner.resumed.set()

    async def reset(self, object: str) -> None:
        """Forget the position: the next start begins with a snapshot.

        Raises:
            CDCError: the object is being followed.
            ConfigurationError: by another process.
        """
        with self._idle(object):
            await self._log.reset(f"cdc/{self.connector_id}/{object}")
            if self._store is not None:
                await self._store.clear(f"cdc/{self.connector_id}/{object}")

    async def resnapshot(self, object: str) -> None:
        """Have all rows read again at the next start; the stream then goes on from where it is now. What is gone meanwhile is
        found, as after a gap.

        Raises:
            CDCError: the object is being followed.
            ConfigurationError: by another process.
        """
        key = f"cdc/{self.connector_id}/{object}"
        with self._idle(object):
            progress = await self._log.load(key)
            if progress is not None:
                topic = f"cdc.{self.source_system}"
                await self._log.publish(topic, (), (), key, progress.again("asked for"))

    @contextmanager
    def _idle(self, object: str) -> Iterator[None]:
        """Nobody follows the object meanwhile."""
        task = self._tasks.get(object)
        if task is not None and not task.done():
            raise CDCError(f"{self.connector_id} follows {object}: stop it first")
        held = self._claimed is not None
        self._claim()
        try:
            yield
        finally:
            if not held:
                self._release()

    # -- status ----------------------------------------------------------------------------------

    def offsets(self) -> dict[str, CDCOffset]:
        """How far each object is."""
        return {
            name: CDCOffset(
                self.connector_id,
                self.source_system,
                name,
                (runner.progress.resume or runner.progress.position).decode("utf-8", "backslashreplace"),
                runner.updated or datetime.fromtimestamp(0, UTC),
                {"phase": runner.progress.phase, "rows": runner.progress.rows},
            )
            for name, runner in self._runners.items()
            if runner.progress is not None
        }

    def get_status(self) -> dict[str, Any]:
        """connector_id, source_system, status, error_count, last_error, offsets, for each object its counters, and what is used
        of the account's allowances, as far as the source knows.
        """
        stats = {name: runner.stats for name, runner in self._runners.items()}
        errors = [s.last_error for s in stats.values() if s.last_error is not None]
        return {
            "connector_id": self.connector_id,
            "source_system": self.source_system,
            "status": self.status.value,
            "error_count": sum(s.errors for s in stats.values()) + (self._connect_error is not None),
            "last_error": self._connect_error or (errors[-1] if errors else None),
            "offsets": {name: offset.offset_value for name, offset in self.offsets().items()},
            "objects": {
                name: {
                    "phase": runner.phase.value,
                    "changes": runner.stats.changes,
                    "snapshot_rows": runner.stats.snapshot_rows,
                    "snapshot_total": runner.stats.snapshot_total,
                    "snapshot_eta": runner.stats.snapshot_eta,
                    "gaps": runner.stats.gaps,
                    "errors": runner.stats.errors,
                    "last_error": runner.stats.last_error,
                    "last_change": runner.stats.last_change.isoformat() if runner.stats.last_change else None,
                }
                for name, runner in self._runners.items()
            },
            "account": dict(self.source.account()) if isinstance(self.source, Metered) else {},
        }


class SourceConnector(CDCConnector):
    """A connector over a source of the SPI (a plugin's, or the built-in outbox)."""

    def __init__(
        self, connector_id: str, source: CDCSource, event_bus: EventBus, pillar: str = "", **options: Any
    ) -> None:
        super().__init__(connector_id, source.system, event_bus, pillar, **options)
        self._source = source

    @property
    def source(self) -> CDCSource:
        """The source."""
        return self._source

    async def get_changes(self, object: str, since: CDCOffset | None = None) -> AsyncIterator[CDCEvent]:
        """Changes after ``since`` (now, where it is None), without end."""
        position = since.offset_value.encode() if since is not None else await self._source.position(object)
        async with aclosing(cast(Any, self._source.stream(object, position))) as batches:
            async for batch in batches:
                for item in batch.items:
                    if isinstance(item, Change):
                        yield CDCEvent.of(item, self.source_system)

    async def get_snapshot(self, object: str) -> AsyncIterator[CDCEvent]:
        """All rows of now."""
        async with aclosing(cast(Any, self._source.snapshot(object, None))) as batches:
            async for batch in batches:
                for item in batch.items:
                    if isinstance(item, Change):
                        yield CDCEvent.of(item, self.source_system)


class _OwnSource:
    """A connector's own get_changes and get_snapshot, as a source for the runner."""

    capabilities = Capabilities(Capability.SNAPSHOT, Capability.STREAM)

    def __init__(self, connector: CDCConnector) -> None:
        self._connector = connector
        self.system = connector.source_system

    async def open(self) -> None:
        """The connector connects by itself."""

    async def close(self) -> None:
        """Nothing is held here."""

    async def check(self) -> CheckResult:
        """A connector of one's own cannot be asked."""
        return CheckResult(True, {})

    async def position(self, object: str) -> bytes:
        """As the connector says."""
        return (await self._connector.get_position(object)).encode()

    async def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        """In batches; after an interruption it begins anew, with the same event ids."""
        batch: list[Change] = []
        async with aclosing(cast(Any, self._connector.get_snapshot(object))) as changes:
            async for change in changes:
                batch.append(_change(change))
                if len(batch) >= BATCH:
                    yield ChangeBatch(batch, b"")
                    batch = []
        if batch:
            yield ChangeBatch(batch, b"")

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        """One call of get_changes after the other."""
        connector = self._connector
        while True:
            since = CDCOffset(
                connector.connector_id, self.system, object, position.decode(), datetime.now(UTC)
            )
            found = False
            async with aclosing(cast(Any, connector.get_changes(object, since))) as changes:
                async for change in changes:
                    found = True
                    position = (change.sequence or change.timestamp.isoformat()).encode()
                    yield ChangeBatch([_change(change)], position)
            if not found:
                await connector._clock.sleep(connector.poll)

    async def acknowledge(self, object: str, position: bytes) -> None:
        """Nothing to clean up."""


def _let(runner: ObjectRunner, paused: frozenset[str]) -> None:
    if paused & {"", runner.object}:
        runner.allowed.clear()
    else:
        runner.allowed.set()


def _change(event: CDCEvent) -> Change:
    identity = event.identity or json.dumps(
        [dict(event.primary_key), event.sequence, event.timestamp.isoformat()], default=str, sort_keys=True
    )
    return Change(
        identity,
        event.operation,
        event.table_or_object,
        event.primary_key,
        event.before,
        event.after,
        event.timestamp,
        event.sequence,
        event.before_from,
        event.changed_fields,
        event.partial,
        event.actor,
        event.own,
        event.transaction,
        event.api_version,
        event.visible,
        event.as_of,
        event.metadata,
    )
