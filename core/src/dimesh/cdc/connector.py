"""Connectors: a source at work on a bus, for some objects."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, cast

from dimesh.bus.engine import EventBus
from dimesh.capabilities import Capabilities, Capability
from dimesh.cdc.events import CDCEvent, CDCOffset
from dimesh.cdc.runner import CDCObserver, ObjectRunner, Phase
from dimesh.cdc.state import ProgressLog, StateStore
from dimesh.cdc.status import CDCConnectorStatus
from dimesh.cdc.store import SqliteCDCStore
from dimesh.clock import Clock
from dimesh.errors import CDCError, ConfigurationError, CredentialsError, SourceUnavailableError
from dimesh.events.names import check_group
from dimesh.spi.cdc import CDCSource, Change, ChangeBatch, CheckResult

BATCH = 100


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
        store: remembers which rows there are, so that a repair after a gap finds deletes; without it, it does not.
    """

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
        self._runners: dict[str, ObjectRunner] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
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
            ConfigurationError: no objects, or one is followed already.
        """
        if isinstance(objects, str) or not objects:
            raise ConfigurationError("start needs a list of objects, such as ['Contact', 'Account']")
        running = [o for o in objects if o in self._tasks and not self._tasks[o].done()]
        if running:
            raise ConfigurationError(f"{self.connector_id} follows {', '.join(running)} already")
        await self.event_bus.open()
        await self.connect()
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
            )
            self._tasks[name] = asyncio.create_task(
                runner.run(), name=f"dimesh-cdc-{self.connector_id}-{name}"
            )

    async def stop(self) -> None:
        """Stop following; positions stay where they are."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()

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
        """
        task = self._tasks.get(object)
        if task is not None and not task.done():
            raise CDCError(f"{self.connector_id} follows {object}: stop it first")
        await self._log.reset(f"cdc/{self.connector_id}/{object}")
        if self._store is not None:
            await self._store.clear(f"cdc/{self.connector_id}/{object}")

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
        """connector_id, source_system, status, error_count, last_error, offsets and, for each object, its counters."""
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
                    "gaps": runner.stats.gaps,
                    "errors": runner.stats.errors,
                    "last_error": runner.stats.last_error,
                    "last_change": runner.stats.last_change.isoformat() if runner.stats.last_change else None,
                }
                for name, runner in self._runners.items()
            },
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
        metadata=event.metadata,
    )
