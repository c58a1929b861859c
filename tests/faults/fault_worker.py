"""A process that publishes to and consumes from one sqlite bus until it is killed or kills itself.

It writes its actions to a named pipe that the parent reads, so the parent knows the acknowledged events even if this
process dies and its files are damaged.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sqlite3
import threading
from dataclasses import dataclass
from typing import Any

from dimesh import Event, EventBus, RetryPolicy, StartAt, SubscriptionOptions
from dimesh.backends.bus.sqlite import backend as sqlite_backend
from dimesh.backends.bus.sqlite import database, writer
from dimesh.backends.bus.sqlite.backend import SqliteBackend
from dimesh.backends.bus.sqlite.options import SqliteOptions
from dimesh.clock import SystemClock
from dimesh_contracts.history import History, RecordingBackend
from dimesh_contracts.history.entries import Crashed, Entry

TOPIC = "orders"
GROUP = "billing"

STATEMENTS = {
    "begin": "BEGIN IMMEDIATE",
    "append": "INSERT INTO records",
    "commit": "COMMIT",
    "offsets": "INSERT INTO offsets",
    "attempts": "INSERT OR REPLACE INTO attempts",
    "join": "INSERT INTO members",
    "claim": "INSERT INTO owners",
    "leave": "DELETE FROM members",
    "checkpoint": "PRAGMA wal_checkpoint(PASSIVE)",
    "close": "PRAGMA wal_checkpoint(TRUNCATE)",
}
"""The failpoints, named after the statement that is about to run."""
OTHERS = ("committed", "handler", "handled", "dead-letter", "acknowledged")
FAILPOINTS = (*STATEMENTS, *OTHERS)


@dataclass(frozen=True)
class Task:
    """The task of a worker."""

    path: str
    pipe: str
    name: str
    first: int = 0
    """The number of its first event."""
    count: int = 1_000_000
    publishes: bool = True
    consumes: bool = True
    fails: bool = True
    """Whether some events fail once, and some permanently."""
    failpoint: str = ""
    hits: int = 1
    """The number of the pass at which the failpoint kills."""
    until_idle: bool = False
    """Whether to end when everything is handled; otherwise the worker ends at SIGTERM."""


class Mortal(History):
    """A history whose process can kill itself: nothing is written after the entry that records it."""

    def __init__(self, descriptor: int, process: str) -> None:
        self._lock = threading.Lock()
        super().__init__(descriptor, process)

    def add(self, entry: Entry) -> None:
        with self._lock:
            super().add(entry)

    def die(self) -> None:
        self._lock.acquire()
        super().add(Crashed(self.process))
        os.kill(os.getpid(), signal.SIGKILL)


class Failpoint:
    """A failpoint that counts its passes."""

    def __init__(self, history: Mortal, name: str, hits: int) -> None:
        self._history = history
        self.name = name
        self._left = hits

    def reached(self, name: str) -> None:
        if name == self.name:
            self._left -= 1
            if self._left == 0:
                self._history.die()


def install(point: Failpoint) -> None:
    """Trace the statements of the writing connection, and the point between a commit and its acknowledgement."""
    make = database.writer_connection
    statement = STATEMENTS.get(point.name)

    def watched(path: Any, synchronous: str) -> sqlite3.Connection:
        connection = make(path, synchronous)
        if statement is not None:
            connection.set_trace_callback(
                lambda text: point.reached(point.name) if text.lstrip().startswith(statement) else None
            )
        return connection

    writer.writer_connection = watched  # type: ignore[attr-defined]
    answer = writer.Writer._answer

    def answer_or_die(self: Any, jobs: Any, outcomes: Any) -> None:
        point.reached("committed")
        answer(self, jobs, outcomes)

    writer.Writer._answer = answer_or_die  # type: ignore[method-assign]
    assert sqlite_backend.Writer is writer.Writer


def run(task: Task) -> None:
    """Run the process. If it hangs, it prints where, and ends before the test's time-out."""
    faulthandler.dump_traceback_later(100, exit=True)
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())  # until the loop installs its own handler
    history = Mortal(os.open(task.pipe, os.O_WRONLY), task.name)
    point = Failpoint(history, task.failpoint, task.hits)
    if task.failpoint:
        install(point)
    asyncio.run(work(task, history, point, asked))


async def work(task: Task, history: Mortal, point: Failpoint, asked: threading.Event) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    if asked.is_set():
        stop.set()
    backend = RecordingBackend(SqliteBackend(SqliteOptions(path=task.path), SystemClock()), history)
    bus = EventBus(backend)
    failed: set[int] = set()
    append = backend.append

    async def append_or_die(topic: str, *arguments: Any, **options: Any) -> Any:
        positions = await append(topic, *arguments, **options)
        point.reached("dead-letter" if topic.endswith(".dlq") else "acknowledged")
        return positions

    backend.append = append_or_die  # type: ignore[method-assign]

    async def handler(event: Event) -> None:
        point.reached("handler")
        number = event.payload
        if not task.fails:
            return
        if number % 19 == 7:
            raise ValueError("always")
        if number % 5 == 3 and number not in failed:
            failed.add(number)
            raise ConnectionError("once")

    async def around(event: Event, call_next: Any) -> None:
        await call_next(event)
        point.reached("handled")

    if task.consumes:
        await bus.subscribe(
            TOPIC,
            handler,
            task.name,
            group=GROUP,
            start=StartAt.EARLIEST,
            middleware=[around, history.handling(TOPIC, GROUP)],
            options=SubscriptionOptions(retry=RetryPolicy(attempts=3, base=0.001)),
        )

    async def publish(lane: int) -> None:
        number = task.first + lane
        while task.publishes and not stop.is_set() and number < task.first + task.count:
            numbers = [number + 4 * n for n in range(1 + number % 3)]
            events = [Event("order.made", None, n) for n in numbers]
            await bus.publish_many(TOPIC, events, keys=[f"key-{lane}-{n % 5}" for n in numbers])
            number += 4 * len(events)

    publishing = [asyncio.create_task(publish(lane)) for lane in range(4)]
    if task.until_idle:
        await asyncio.gather(*publishing)
        while sum(g.lag for g in await backend.groups() if g.topic == TOPIC):
            await asyncio.sleep(0.01)
    else:
        await stop.wait()
    await asyncio.gather(*publishing)
    await bus.close()
    history.close()
