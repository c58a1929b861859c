"""The state that a backend and its streams share: the open file, appends to it, and notifications of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from dimesh.backends.bus.sqlite import processes, tables
from dimesh.backends.bus.sqlite.database import prepare, reader_connection
from dimesh.backends.bus.sqlite.options import SqliteOptions
from dimesh.backends.bus.sqlite.pages import Readers
from dimesh.backends.bus.sqlite.processes import Heartbeat
from dimesh.backends.bus.sqlite.tables import Row, Topic, row_of
from dimesh.backends.bus.sqlite.writer import Writer
from dimesh.clock import Clock
from dimesh.errors import StorageError
from dimesh.spi.bus import DEFAULT_TIMEOUT, Position, Record
from dimesh.storage.filelock import FileLock
from dimesh.storage.room import Room


class Follower(Protocol):
    """An open stream, as the session notifies it."""

    topic_id: int
    changed: asyncio.Event
    """Set when records were appended to the topic."""
    kick: asyncio.Event
    """Set when the members of the group, or the partitions of the topic, changed."""

    @property
    def group(self) -> str | None:
        """The name of the group; None for a stream without one."""
        ...

    def end(self) -> None:
        """End the stream: its topic was deleted."""
        ...


class Session:
    """One process's use of the database file."""

    readers: Readers
    writer: Writer
    watch: sqlite3.Connection
    """A reading connection for short queries in the event loop's thread."""

    def __init__(self, options: SqliteOptions, clock: Clock) -> None:
        self.options = options
        self.clock = clock
        self.path = Path(os.path.abspath(options.path))
        self.closed = False
        self.token = uuid4().hex
        """The name of this process among those that use the file; never used again."""
        self.latest: dict[int, int] = {}
        """By id of a topic that a stream reads, the offset of the next record, as far as this process knows."""
        self.followers: dict[int, set[Follower]] = {}
        """The open streams by the id of their topic."""
        self._beating = False
        self.delayed: Callable[[], None] = _nothing
        """Called when records were appended that are to be delivered later."""
        self._lock = FileLock(Path(f"{self.path}-lock"))
        self._room = Room(
            clock, options.max_queued, options.max_queued_bytes, f"records wait to be written to {self.path}"
        )
        self._sizes: dict[str, int] = {}
        """The bytes that were appended and are not counted in the database yet, by topic."""

    async def open(self) -> None:
        """Open or create the database.

        Raises:
            StorageError: the file cannot be used; the message says what to do.
        """
        try:
            await asyncio.to_thread(prepare, self.path, self._lock)
            self.watch = reader_connection(self.path)
        except BaseException:
            self._lock.release()
            raise
        self.writer = Writer(self.path, self.options.synchronous, self._lock)
        self.readers = Readers(self.path)

    def send_heartbeats(self) -> None:
        """Send heartbeats until the session is closed. Call it before a stream joins a group."""
        if not self._beating:
            self._beating = True
            self.writer.repeat(Heartbeat(self.token, self.options.lease, self.options.stall))

    def refuse(self) -> None:
        """Refuse appends from now on, also those that wait for room."""
        self.closed = True
        self._room.close()

    async def close(self) -> None:
        """Write what is pending, and close the file."""
        with contextlib.suppress(StorageError):
            await self.count_sizes()
            if self._beating:
                await self.writer.submit(lambda c: processes.remove(c, self.token))
        await asyncio.to_thread(self._close_readers)
        await self.writer.close()
        self._lock.release()

    def _close_readers(self) -> None:
        # Under the lock: the last connection of all processes to close moves the log into the database.
        with self._lock:
            self.readers.close()
            self.watch.close()

    # -- appending -------------------------------------------------------------------------------

    async def append(
        self,
        before: Callable[[sqlite3.Connection], object] | None,
        topic: str,
        records: Sequence[Record],
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Sequence[Position | None]:
        """Write the records in one transaction with what ``before`` does, and return when they are on disk.

        ``before`` may refuse by an exception, as long as it has changed nothing.
        """
        rows = [row_of(record) for record in records]
        size = sum(len(row[5]) + len(row[6]) for row in rows)
        if not self._room.try_take(len(rows), size):
            await self._room.take(len(rows), size, timeout)
        now = self.clock.time()
        due = [record.deliver_at for record in records]
        late = any(at is not None and at > now for at in due)
        partitions = self.options.partitions
        ends = self.writer.ends

        def work(connection: sqlite3.Connection) -> tuple[Sequence[Position | None], int, int]:
            if before is not None:
                before(connection)
            if not rows:
                return [], 0, 0
            target = ends.topic(connection, topic, partitions)
            if late:
                positions, taken = _append_some(connection, target, rows, due, now)
            else:
                positions, taken = tables.append(connection, target, rows, now), len(rows)
                ends.appended(connection, target, taken, now)
            return positions, target.id, target.next_offset + taken

        positions, topic_id, latest = await self.writer.submit(
            work, len(rows) or 1, lambda: self._room.free(len(rows), size), size
        )
        if topic_id:
            self._sizes[topic] = self._sizes.get(topic, 0) + size
            self.advance(topic_id, latest)
        if late:
            self.delayed()
        return positions

    async def count_sizes(self) -> None:
        """Add the bytes that were appended to the sizes of their topics."""
        sizes, self._sizes = self._sizes, {}
        if sizes:
            await self.writer.submit(lambda c: tables.add_size(c, sizes))

    # -- streams ---------------------------------------------------------------------------------

    def add(self, follower: Follower, next_offset: int) -> None:
        """Notify this stream from now on."""
        topic = follower.topic_id
        self.followers.setdefault(topic, set()).add(follower)
        self.latest[topic] = max(next_offset, self.latest.get(topic, 0))

    def remove(self, follower: Follower) -> None:
        """Notify this stream no more."""
        others = self.followers.get(follower.topic_id, set())
        others.discard(follower)
        if not others:
            self.followers.pop(follower.topic_id, None)
            self.latest.pop(follower.topic_id, None)

    def advance(self, topic: int, latest: int) -> None:
        """Notify the streams of a topic that its records reach up to ``latest``."""
        if latest <= self.latest.get(topic, latest):
            return  # known, or nobody here reads the topic
        self.latest[topic] = latest
        for follower in self.followers[topic]:
            follower.changed.set()

    def kick(self, topic: int, group: str) -> None:
        """Notify the streams of a group that its members changed. An empty group stands for every stream of the topic."""
        for follower in self.followers.get(topic, ()):
            if not group or follower.group == group:
                follower.kick.set()

    def end_topic(self, topic: int) -> None:
        """End the streams of a topic that was deleted."""
        for follower in tuple(self.followers.get(topic, ())):
            follower.end()


def _append_some(
    connection: sqlite3.Connection,
    topic: Topic,
    rows: Sequence[Row],
    due: Sequence[float | None],
    now: float,
) -> tuple[Sequence[Position | None], int]:
    """Append the records that are due; hold the others back."""
    positions: list[Position | None] = [None] * len(rows)
    at_once = [n for n, at in enumerate(due) if at is None or at <= now]
    for n, at in enumerate(due):
        if at is not None and at > now:
            tables.hold_back(connection, topic, rows[n], at)
    if at_once:
        for n, position in zip(
            at_once, tables.append(connection, topic, [rows[n] for n in at_once], now), strict=True
        ):
            positions[n] = position
    return positions, len(at_once)


def _nothing() -> None:
    pass
