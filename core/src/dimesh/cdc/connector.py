"""Connectors: each captures objects of one source and publishes their changes on a bus."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar

from msgspec.structs import replace

from dimesh import contact
from dimesh.bus.engine import EventBus
from dimesh.bus.topics import check_user_topic
from dimesh.capabilities import Capability
from dimesh.cdc.events import CDCEvent, CDCOffset
from dimesh.cdc.publisher import CDCObserver, ChangePublisher
from dimesh.cdc.pull_source import PullSource
from dimesh.cdc.reports import ObjectReport, SourceReport
from dimesh.cdc.runner import BACKOFF, CREDENTIALS_WAIT, ObjectRunner, Phase, Repair
from dimesh.cdc.schema_drift import Registrar
from dimesh.cdc.state import ProgressLog, progress_key
from dimesh.cdc.status import CDCConnectorStatus, object_status
from dimesh.cdc.status_events import StatusFeed
from dimesh.cdc.store_link import StoreLink, apply_pause
from dimesh.cdc.turn import Turn
from dimesh.cdc.verification.continuous import ContinuousVerification
from dimesh.cdc.verification.history import History
from dimesh.cdc.verification.standing import RunnerFeed
from dimesh.cdc.verification.verifier import Verifier
from dimesh.clock import Clock
from dimesh.errors import (
    CDCError,
    ConfigurationError,
    CredentialsError,
    EventError,
    SourceUnavailableError,
    StorageError,
    describe,
)
from dimesh.events.names import check_group
from dimesh.spi.cdc import CDCSource, Metered
from dimesh.spi.state import CaptureStore, StateStore
from dimesh.storage.process import process_name
from dimesh.tasks import end_tasks, finish

log = logging.getLogger("dimesh.cdc")


class CDCConnector:
    """The base of all connectors.

    A subclass implements :meth:`get_changes` and :meth:`get_snapshot` (async iterators of :class:`CDCEvent`). The base does the
    rest: the snapshot, the hand-over to the stream, publishing, positions, retries and pauses. The connector for a source of
    the SPI is :class:`SourceConnector`.

    Args:
        connector_id: the id of the connector, under which its positions are stored.
        source_system: the name of the source system; changes go to ``cdc.<source_system>``.
        event_bus: the bus.
        pillar: the pillar of the events.
        poll: seconds between two calls of :meth:`get_changes` when there are no changes.
        state: the store of positions for buses that cannot store them; by default ``store``.
        store: the store of rows, positions, pauses and claims. With it, a repair after a gap finds deleted rows, and changes
            get a ``before`` that the source does not report.
        clock: the clock; by default that of the bus.
        observer: the observer of changes and gaps.
        seed: the seed of the jitter of retries.
        clock_skew: seconds by which the source's clock may differ from ours. A change within this time after a snapshot read
            its row gets no stored ``before``, because the row may contain the change already.
        registry: the registry for the schemas of a source that describes its objects.
        repair: when a gap that only a new snapshot repairs is repaired. ``auto``: at once. ``manual``: when :meth:`resnapshot`
            or ``dimesh cdc snapshot`` requests it; until then the stream continues.
        repair_pause: the time that a repair waits after the last one, as a multiple of the duration of that one; an hour at
            most.
        topic: the topic of the changes; None: ``cdc.<system>``, which all connectors of a system share.
        status_events: whether changes of phase are published on the topic, as events of type ``cdc.status``.
        verify: the largest part of the account's requests with which rows are compared with what was published, while the
            connector runs; 0: none. It needs a store.
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
        "topic",
        "status_events",
        "verify",
    )
    """The keyword arguments of every connector, in addition to those of its source."""

    def __init__(
        self,
        connector_id: str,
        source_system: str,
        event_bus: EventBus,
        pillar: str = "",
        *,
        poll: float = 5.0,
        state: StateStore | None = None,
        store: CaptureStore | None = None,
        clock: Clock | None = None,
        observer: CDCObserver | None = None,
        seed: int | None = None,
        clock_skew: float = 1.0,
        registry: Registrar | None = None,
        repair: Repair = "auto",
        repair_pause: float = 1.0,
        topic: str | None = None,
        status_events: bool = False,
        verify: float = 0.0,
    ) -> None:
        if verify and store is None:
            raise ConfigurationError("verify needs a store: what was published is compared with the source")
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
        self.topic = _checked(topic) if topic is not None else f"cdc.{source_system}"
        """The topic of the changes."""
        self._feed = StatusFeed(connector_id, event_bus, self.topic, self._rng) if status_events else None
        self._runners: dict[str, ObjectRunner] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._watch: asyncio.Task[None] | None = None
        self._verification = (
            ContinuousVerification(self.connector_id, store, verify, self._clock, random.Random(seed))  # noqa: S311 - a sample
            if verify and store is not None
            else None
        )
        self._verifying: asyncio.Task[None] | None = None
        self._standing_by: asyncio.Task[None] | None = None
        self._turn = Turn(connector_id, event_bus, store, self._clock, self._yield)
        self._connecting = asyncio.Lock()
        self._status = CDCConnectorStatus.DISCONNECTED
        self._connect_error: str | None = None
        self._link = StoreLink(connector_id, self, self._runners, store, self._clock)

    # -- for subclasses --------------------------------------------------------------------------

    async def get_changes(self, object: str, since: CDCOffset | None = None) -> AsyncIterator[CDCEvent]:
        """Yield the changes after ``since``, oldest first, and end when there are no more for now.

        ``since.offset_value`` is the ``sequence`` of the last change, or what :meth:`get_position` returned.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement get_changes")
        yield  # type: ignore[unreachable]  # makes it an async iterator

    async def get_snapshot(self, object: str) -> AsyncIterator[CDCEvent]:
        """Yield all rows as they are now."""
        raise NotImplementedError(f"{type(self).__name__} must implement get_snapshot")
        yield  # type: ignore[unreachable]

    async def get_position(self, object: str) -> str:
        """Return the position from which no later change is missed: by default the time, in ISO 8601."""
        return datetime.fromtimestamp(self._clock.time(), UTC).isoformat()

    @property
    def source(self) -> CDCSource:
        """The source that the connector captures; by default an adapter of the methods above."""
        return PullSource(self, self.connector_id, self.source_system, self.event_bus.clock, self.poll)

    # -- life ------------------------------------------------------------------------------------

    @property
    def status(self) -> CDCConnectorStatus:
        """The status of the connector as a whole."""
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
            self._connect_error = describe(error)
            raise
        self._status = CDCConnectorStatus.CONNECTED
        self._connect_error = None

    async def disconnect(self) -> None:
        """Stop the capture and close the source."""
        await self.stop()
        await finish(self.source.close(), f"closing the source of {self.connector_id}")
        self._status = CDCConnectorStatus.DISCONNECTED

    async def start(self, objects: Sequence[str], *, keep_trying: bool = False) -> None:
        """Start to capture objects, each independently: an object that fails does not stop the others.

        Args:
            objects: the names of the objects.
            keep_trying: retry in the background if the source cannot be connected to, and wait in the background while another
                process captures the connector.

        Raises:
            ConfigurationError: there are no objects, one is captured already, or the connector runs in another process (not
                raised with ``keep_trying``).
            CredentialsError, SourceUnavailableError: see :meth:`connect`. Not raised with ``keep_trying``.
            StorageError: the store cannot be read or locked. Nothing was started.
        """
        if isinstance(objects, str) or not objects:
            raise ConfigurationError("start needs a list of object names, such as ['Contact', 'Account']")
        running = [o for o in objects if o in self._tasks and not self._tasks[o].done()]
        if running:
            raise ConfigurationError(f"{self.connector_id} already captures {', '.join(running)}")
        await self.event_bus.open()
        first = not self._tasks
        mine = await self._turn.take(ask=keep_trying)
        if not mine and not keep_trying:
            raise ConfigurationError(self._running_elsewhere())
        asked: frozenset[str] = frozenset()
        unreachable: BaseException | None = None
        try:
            asked = await self._link.paused()
            if first:
                await self._link.load()
                self._runners.clear()  # their numbers are in the report, perhaps with those of another process
            if mine:
                await self.connect()
        except BaseException as error:
            hopeless = not isinstance(error, Exception) or isinstance(
                error, ConfigurationError | StorageError
            )
            if not keep_trying or hopeless:
                if first:
                    await self._turn.release()
                raise
            unreachable = error
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
                self.topic,
            )
            last = self._runners.get(name)
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
                self._feed,
            )
            runner.earlier = (
                last.report() if last is not None else self._link.earlier.get(name, runner.earlier)
            )
            if self._verification is not None:
                verifier = self.verifier(name)
                self._verification.add(verifier, publisher.key, publisher.publish_verified)
            if unreachable is not None:
                runner.health.failed(unreachable)
            apply_pause(runner, asked)
        self._run(dict.fromkeys(objects))
        if not mine and self._standing_by is None:
            self._standing_by = asyncio.create_task(
                self._stand_by(), name=f"dimesh-cdc-{self.connector_id}-standby"
            )

    def _run(self, objects: Iterable[str]) -> None:
        """Start the tasks of objects, and the one that keeps in touch with other processes."""
        for name in objects:
            runner = self._runners[name]
            if not self._turn.taken.is_set():
                runner.phase = Phase.STANDBY
            self._tasks[name] = asyncio.create_task(
                self._follow(runner), name=f"dimesh-cdc-{self.connector_id}-{name}"
            )
        if self._verification is not None and self._verifying is None:
            self._verifying = asyncio.create_task(
                self._verify(self._verification), name=f"dimesh-cdc-{self.connector_id}-verification"
            )
        if self._store is not None and self._watch is None:
            self._watch = asyncio.create_task(
                self._link.run(self._turn.taken), name=f"dimesh-cdc-{self.connector_id}-store"
            )

    async def _verify(self, verification: ContinuousVerification) -> None:
        await self._turn.taken.wait()
        await verification.run()

    async def _stand_by(self) -> None:
        """Take over when no other process captures any more."""
        await self._turn.wait()
        self._standing_by = None

    def _yield(self) -> None:
        """Stop capturing for a process that takes precedence, and wait for its end."""
        self._turn.taken.clear()
        if self._standing_by is None:
            self._standing_by = asyncio.create_task(
                self._yield_and_wait(), name=f"dimesh-cdc-{self.connector_id}-standby"
            )

    async def _yield_and_wait(self) -> None:
        objects = [name for name, task in self._tasks.items() if not task.done()]
        await end_tasks(self._tasks[name] for name in objects)
        self._run(objects)
        await self._stand_by()

    async def _follow(self, runner: ObjectRunner) -> None:
        """Wait until it is this process's turn and the source is connected, then capture the object."""
        if not self._turn.taken.is_set():
            await self._turn.taken.wait()
            runner.phase = Phase.WAITING
        contact.listener.set(runner.health)
        for failures in itertools.count(1):
            async with self._connecting:
                try:
                    await self.connect()
                    runner.health.captured()
                    break
                except ConfigurationError as error:
                    runner.record_failure(error, Phase.FAILED)
                    return
                except CredentialsError as error:
                    runner.health.failed(error)
                    wait = CREDENTIALS_WAIT
                except Exception as error:
                    runner.health.failed(error)
                    after = error.retry_after if isinstance(error, SourceUnavailableError) else 0.0
                    wait = max(BACKOFF.delay(min(failures, 10), self._rng), after)
                await self._clock.sleep(wait)
        await runner.run()

    async def stop(self) -> None:
        """Stop the capture. The positions are kept."""
        others = [task for task in (self._watch, self._verifying, self._standing_by) if task is not None]
        await end_tasks([*others, *self._tasks.values()])
        self._tasks.clear()
        self._watch = self._verifying = self._standing_by = None
        for runner in self._runners.values():
            runner.mark_stopped()  # also a runner that was cancelled before it started
        if self._feed is not None:
            await self._feed.close()
        if self._turn.taken.is_set() and self._runners:
            await self._link.report()
        await self._turn.release()

    def _running_elsewhere(self) -> str:
        return f"{self.connector_id} is already running, perhaps in another process ('dimesh run'): stop that one first"

    def pause(self) -> None:
        """Pause after the batch that is being published, until :meth:`resume`."""
        for runner in self._runners.values():
            runner.resumed.clear()

    def resume(self) -> None:
        """Continue after :meth:`pause`."""
        for runner in self._runners.values():
            runner.resumed.set()

    async def reset(self, object: str) -> None:
        """Delete the position: the next start begins with a snapshot.

        Raises:
            CDCError: this connector is capturing the object.
            ConfigurationError: the connector runs in another process.
        """
        async with self._idle(object):
            key = progress_key(self.connector_id, object)
            await self._log.reset(key)
            if self._store is not None:
                await self._store.clear(key)

    async def resnapshot(self, object: str) -> None:
        """Request a new snapshot at the next start. After it, the stream continues from its current position. Rows that were
        deleted meanwhile are found, as in a repair of a gap.

        Raises:
            CDCError: this connector is capturing the object.
            ConfigurationError: the connector runs in another process.
        """
        key = progress_key(self.connector_id, object)
        async with self._idle(object):
            progress = await self._log.load(key)
            if progress is not None:
                again = progress.start_resnapshot(
                    progress.pending_repair or progress.repair or "asked for", self._clock.time()
                )
                await self._log.publish(self.topic, (), (), key, again)

    @asynccontextmanager
    async def _idle(self, object: str) -> AsyncIterator[None]:
        """Hold the claim, so that nothing captures the object meanwhile."""
        task = self._tasks.get(object)
        if task is not None and not task.done():
            raise CDCError(f"{self.connector_id} is capturing {object}: stop it first")
        held = self._turn.taken.is_set()
        if not await self._turn.take():
            raise ConfigurationError(self._running_elsewhere())
        try:
            yield
        finally:
            if not held:
                await self._turn.release()

    # -- status ----------------------------------------------------------------------------------

    def verifier(self, object: str) -> Verifier:
        """Return what verifies an object that this connector captures.

        Raises:
            ConfigurationError: the connector has no store.
        """
        if self._store is None:
            raise ConfigurationError(f"{self.connector_id} has no store: what was published is unknown")
        return Verifier(
            self.source,
            object,
            self._store,
            progress_key(self.connector_id, object),
            RunnerFeed(self._runners[object]),
            History(self.event_bus, self.topic, self.connector_id, object),
            self._clock,
        )

    def report(self) -> SourceReport:
        """Return the state as operators see it."""
        account = self.source.account() if isinstance(self.source, Metered) else {}
        return SourceReport(
            at=self._clock.time(),
            system=self.source_system,
            status=self.status.value,
            objects={name: self._report(name) for name in self._runners},
            account={name: float(n) for name, n in account.items() if isinstance(n, (int, float))},
            process=process_name(),
            heartbeat=self._link.heartbeat,
        )

    def _report(self, name: str) -> ObjectReport:
        found = self._runners[name].report()
        verified = self._verification.report(name) if self._verification is not None else None
        return replace(found, verified=verified)

    def offsets(self) -> dict[str, CDCOffset]:
        """Return the position of each object."""
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
        """Return the status as plain values: connector_id, source_system, status, error_count, last_error, offsets, the counters
        of each object, and the use of the account's allowances, as far as the source knows it.
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
            "objects": {name: object_status(runner) for name, runner in self._runners.items()},
            "account": dict(self.source.account()) if isinstance(self.source, Metered) else {},
        }


def _checked(topic: str) -> str:
    try:
        return check_user_topic(topic)
    except EventError as error:
        raise ConfigurationError(f"topic: {error}") from error
