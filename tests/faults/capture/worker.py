"""A process that captures changes until SIGTERM, or until it dies at a named point."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from dimesh import EventBusFactory, SqliteCDCStore
from dimesh.cdc import SourceConnector
from dimesh.cdc.events import GAP_TYPE, REPAIRED_TYPE
from dimesh.cdc.state import ProgressLog
from dimesh.plugins import PluginManager
from dimesh.spi.cdc import ChangeBatch

BEGINNING = ("position", "positioned", "page")
BATCH = ("rows", "stage", "staged", "publish", "published", "batch", "acknowledge", "acknowledged")
DELETE = ("remove", "removed")
SEPARATE = ("save", "saved")
"""The points without a transaction that both publishes and stores the position."""
REPAIR = (
    "position", "positioned", "gap", "gap-published", "page", "stale-keys", "delete-found", "repaired", "repaired-published",
)  # fmt: skip
"""The points of the runner's work, each just before or just after data becomes durable or a request to the source."""


@dataclass(frozen=True)
class Task:
    """The task of a process."""

    folder: str
    driver: str
    object: str
    options: dict[str, Any]
    separate: bool
    """Whether positions are stored in a separate file, as with a bus that cannot store them, instead of in the bus's
    transaction.
    """
    point: str = ""
    hits: int = 1


class Point:
    """A point at which the process kills itself in the given pass."""

    def __init__(self, name: str, hits: int) -> None:
        self._name = name
        self._left = hits

    def reached(self, name: str) -> None:
        if name == self._name:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class MortalStore(SqliteCDCStore):
    def __init__(self, path: str, point: Point) -> None:
        super().__init__(path)
        self._point = point

    async def rows(self, source: str, keys: Any) -> dict[str, bytes]:
        self._point.reached("rows")
        return await super().rows(source, keys)

    async def stage(self, *arguments: Any, **more: Any) -> None:
        self._point.reached("stage")
        await super().stage(*arguments, **more)
        self._point.reached("staged")

    async def remove(self, source: str, keys: Any) -> None:
        self._point.reached("remove")
        await super().remove(source, keys)
        self._point.reached("removed")

    async def stale_keys(self, source: str, generation: int, limit: int) -> list[str]:
        self._point.reached("stale-keys")
        found = await super().stale_keys(source, generation, limit)
        if found:
            self._point.reached("delete-found")
        return found

    async def save(self, key: str, value: bytes | None) -> None:
        self._point.reached("save")
        await super().save(key, value)
        self._point.reached("saved")


class MortalSource:
    """A source that wraps another one."""

    def __init__(self, inner: Any, point: Point) -> None:
        self._inner = inner
        self._point = point

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def position(self, object: str) -> bytes:
        self._point.reached("position")
        found: bytes = await self._inner.position(object)
        self._point.reached("positioned")
        return found

    async def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        async for batch in self._inner.snapshot(object, resume):
            self._point.reached("page")
            yield batch

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        async for batch in self._inner.stream(object, position):
            if batch.items:
                self._point.reached("batch")
            yield batch

    @property
    def read_lag(self) -> float:
        return min(self._inner.read_lag, 0.2)  # the sandboxes do not lag

    async def read_rows(self, object: str, keys: Any) -> Any:
        return await self._inner.read_rows(object, keys)

    async def acknowledge(self, object: str, position: bytes) -> None:
        self._point.reached("acknowledge")
        await self._inner.acknowledge(object, position)
        self._point.reached("acknowledged")


class MortalLog(ProgressLog):
    """A log that dies before or after it publishes changes and stores the position."""

    point: Point

    async def publish(self, topic: Any, events: Any, keys: Any, key: Any, progress: Any) -> None:
        kinds = {event.event_type.value for event in events}
        if events:
            self.point.reached("publish")
        for kind, name in ((GAP_TYPE, "gap"), (REPAIRED_TYPE, "repaired")):
            if kind in kinds:
                self.point.reached(name)
        await super().publish(topic, events, keys, key, progress)
        for kind, name in ((GAP_TYPE, "gap-published"), (REPAIRED_TYPE, "repaired-published")):
            if kind in kinds:
                self.point.reached(name)


async def work(task: Task) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    point = Point(task.point, task.hits)
    bus = EventBusFactory.create("sqlite", path=f"{task.folder}/mesh.db")
    store = MortalStore(f"{task.folder}/cdc.db", point)
    publish_many = bus.publish_many

    async def publish_or_die(topic: str, events: Any, **more: Any) -> Any:
        found = await publish_many(topic, events, **more)
        if events:
            point.reached("published")
        return found

    bus.publish_many = publish_or_die  # type: ignore[method-assign]
    source: Any = MortalSource(PluginManager().cdc_source(task.driver, task.options), point)
    state = store if task.separate else None
    connector = SourceConnector("captured", source, bus, store=store, state=state)
    log = MortalLog(bus, state)
    log.point = point
    connector._log = log
    await connector.start([task.object])
    await stop.wait()
    await connector.disconnect()
    await store.close()
    await bus.close()


def run(task: Task) -> None:
    """Capture in this process, whose errors go to ``worker.log`` of the folder."""
    log = os.open(f"{task.folder}/worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, sys.stderr.fileno())
    asyncio.run(work(task))
