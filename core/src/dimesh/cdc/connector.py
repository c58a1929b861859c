"""Connectors: a source at work on a bus, for some objects."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Final, cast

from dimesh.bus.engine import EventBus
from dimesh.capabilities import Capability
from dimesh.cdc.drift import Registrar
from dimesh.cdc.events import CDCEvent, CDCOffset
from dimesh.cdc.own_source import OwnSource
from dimesh.cdc.publisher import CDCObserver, ChangePublisher
from dimesh.cdc.runner import BACKOFF, CREDENTIALS_WAIT, ObjectRunner, Phase, Repair
from dimesh.cdc.state import ProgressLog, StateStore, progress_key
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
from dimesh.spi.cdc import CDCSource, Change, Metered

log = logging.getLogger("dimesh.cdc")

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
        repair: of gaps that only reading all rows anew repairs: ``auto``, at once; ``manual``, when :meth:`resnapshot` (or
            ``dimesh cdc snapshot``) asks for it. The stream goes on until then.
        repair_pause: how long such a repair waits after the last one, in times of what that took; an hour at most.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = (
        "state",
        "store",
        "clock",
        "observer",
        "seed",
        "clock_skew",
        "registry",
        "repair",
        "repair_pause",
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
        repair: Repair = "auto",
        repair_pause: float = 1.0,
    ) -> None:
        if repair not in ("auto", "manual"):
            raise ConfigurationError(f"repair must be auto or manual, not {repair!r:.40}")
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
        self._repair = repair
        self._repair_pause = repair_pause
        self._runners: dict[str, ObjectRunner] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._watch: asyncio.Task[None] | None = None
        self._claimed: FileLock | None = None
        self._connecting = asyncio.Lock()
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
        return OwnSource(self)

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
        except Exception as error:
            self._status = CDCConnectorStatus.ERROR
            self._connect_error = f"{type(error).__name__}: {error}"[:500]
            raise
        self._status = CDCConnectorStatus.CONNECTED
        self._connect_error = None

    async def disconnect(self) -> None:
        """Stop, and close the source."""
        await self.stop()
        await self.source.close()
        self._status = CDCConnectorStatus.DISCONNECTED

    async def start(self, objects: Sequence[str], *, keep_trying: bool = False) -> None:
        """Follow these objects, each on its own: one that fails does not stop the others.

        Args:
            objects: their names.
            keep_trying: a source that cannot be connected to is tried again until it can be, in the background.

        Raises:
            ConfigurationError: no objects, or one is followed already, or the connector runs in another process.
            CredentialsError, SourceUnavailableError: of :meth:`connect`, without ``keep_trying``.
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
            asked = await self._asked_to_pause()
            await self.connect()
        except BaseException as error:
            hopeless = not isinstance(error, Exception) or isinstance(
                error, ConfigurationError | StorageError
            )
            if not keep_trying or hopeless:
                if not self._tasks:
                    self._release()
                raise
            log.warning("%s cannot connect, and goes on trying: %s", self.connector_id, error)
        for name in dict.fromkeys(objects):
            publisher = ChangePublisher(
                self.connector_id,
                self.source.system,
                name,
                self.event_bus,
                self._log,
                self.pillar,
                self._observer,
                self._store,
                self._skew,
            )
            runner = self._runners[name] = ObjectRunner(
                self.connector_id,
                self.source,
                name,
                self.event_bus,
                publisher,
                self._log,
                self._observer,
                self._rng,
                self._store,
                self._registry,
                self._repair,
                self._repair_pause,
            )
            _let(runner, asked)
            self._tasks[name] = asyncio.create_task(
                self._follow(runner), name=f"dimesh-cdc-{self.connector_id}-{name}"
            )
        if self._store is not None and self._watch is None:
            self._watch = asyncio.create_task(self._look(), name=f"dimesh-cdc-{self.connector_id}-pauses")

    async def _follow(self, runner: ObjectRunner) -> None:
        """Wait until the source is connected, then follow the object."""
        for failures in itertools.count(1):
            async with self._connecting:
                try:
                    await self.connect()
                    break
                except ConfigurationError:
                    return  # the status says why
                except CredentialsError:
                    wait = CREDENTIALS_WAIT
                except Exception as error:
                    after = error.retry_after if isinstance(error, SourceUnavailableError) else 0.0
                    wait = max(BACKOFF.delay(min(failures, 10), self._rng), after)
                await self._clock.sleep(wait)
        await runner.run()

    async def stop(self) -> None:
        """Stop following; positions stay where they are."""
        tasks = [*self._tasks.values(), *([self._watch] if self._watch is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        self._watch = None
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
            key = progress_key(self.connector_id, object)
            await self._log.reset(key)
            if self._store is not None:
                await self._store.clear(key)

    async def resnapshot(self, object: str) -> None:
        """Have all rows read again at the next start; the stream then goes on from where it is now. What is gone meanwhile is
        found, as after a gap.

        Raises:
            CDCError: the object is being followed.
            ConfigurationError: by another process.
        """
        key = progress_key(self.connector_id, object)
        with self._idle(object):
            progress = await self._log.load(key)
            if progress is not None:
                topic = f"cdc.{self.source_system}"
                again = progress.again(progress.owed or progress.repair or "asked for", self._clock.time())
                await self._log.publish(topic, (), (), key, again)

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
                    "repair_owed": runner.progress.owed or None if runner.progress is not None else None,
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


def _let(runner: ObjectRunner, paused: frozenset[str]) -> None:
    if paused & {"", runner.object}:
        runner.allowed.clear()
    else:
        runner.allowed.set()
