"""The bus backend on one SQLite file: the durable log of one machine, for any number of its processes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal
from uuid import uuid4

from dimesh.backends.sqlite import groups, tables
from dimesh.backends.sqlite.database import prepare, reader_connection
from dimesh.backends.sqlite.filelock import FileLock
from dimesh.backends.sqlite.options import MAX_PARTITIONS, SqliteOptions
from dimesh.backends.sqlite.pages import Readers, scan
from dimesh.backends.sqlite.stream import SqliteStream
from dimesh.backends.sqlite.tables import Row, Topic, read_start, read_topic, row_of
from dimesh.backends.sqlite.writer import Writer
from dimesh.capabilities import Capabilities, Capability, Support
from dimesh.clock import CLOCK_LOOK, Clock, Handle
from dimesh.errors import (
    BackpressureError,
    BusClosedError,
    ConfigurationError,
    StorageError,
    TopicNotFoundError,
)
from dimesh.spi.bus import (
    DEFAULT_TIMEOUT,
    EVERYTHING,
    Delivery,
    GroupInfo,
    PartitionListener,
    Position,
    Record,
    Start,
    StartAt,
    Subscribe,
    TopicConfig,
    TopicInfo,
)

log = logging.getLogger("dimesh.bus.sqlite")


class SqliteBackend:
    """See :class:`dimesh.spi.bus.BusBackend`."""

    name = "sqlite"
    family: Literal["log", "queue"] = "log"
    commit_interval = 0.1
    commit_every = 5_000

    readers: Readers
    writer: Writer

    def __init__(self, options: SqliteOptions, clock: Clock) -> None:
        self.options = options
        self.clock = clock
        power = Support.FULL if options.synchronous == "full" else Support.PARTIAL
        self.capabilities = Capabilities(
            Capability.DURABLE,
            Capability.REPLAY,
            Capability.LOOK_BACK,
            Capability.START_BY_TIME,
            Capability.GROUPS,
            Capability.MULTI_PROCESS,
            Capability.KEY_ORDER,
            Capability.DURABLE_ATTEMPTS,
            Capability.DELAYED_DELIVERY,
            Capability.FILTER_PUSHDOWN,
            Capability.ATOMIC_STATE,
            Capability.TRANSACTIONS,
            Capability.COUNTED_LAG,
            Capability.RETENTION,
            Capability.TOPIC_ADMIN,
            power_safe=power,
            notes={Capability.POWER_SAFE: 'with synchronous = "full", the default'},
        )
        self.path = Path(os.path.abspath(options.path))
        self.latest: dict[str, int] = {}
        """By topic that a stream reads, the offset of the next record, as far as this process knows."""
        self._streams: set[SqliteStream] = set()
        self._sizes: dict[str, int] = {}
        """Bytes appended by topic and not counted in the database yet."""
        self._queued = 0
        self._queued_bytes = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._poller: asyncio.Task[None] | None = None
        self._watch: sqlite3.Connection | None = None
        self._due_timer: Handle | None = None
        self._due_at: float | None = None
        self._retention_timer: Handle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._opened = False
        self._closed = False

    # -- life ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open or make the database."""
        if "\0" in str(self.path):
            raise StorageError("the path of the database holds a NUL character")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make the folder {self.path.parent}: {error.strerror}") from error
        if os.path.isdir(self.path):  # unlike Path.is_dir, it takes any name
            raise StorageError(f"{self.path} is a folder: give the mesh a file")
        self._lock = FileLock(Path(f"{self.path}-lock"))
        try:
            await asyncio.to_thread(prepare, self.path, self._lock)
            self._watch = reader_connection(self.path)
        except BaseException:
            self._lock.close()
            raise
        self.writer = Writer(self.path, self.options.synchronous, self._lock)
        self.readers = Readers(self.path)
        self._opened = True
        self._poller = asyncio.create_task(self._poll(), name="dimesh-sqlite-poll")
        self._arm_due()
        self._arm_retention()

    async def close(self) -> None:
        """Write what waits, and close the file."""
        if self._closed or not self._opened:
            self._closed = True
            return
        self._closed = True
        for timer in (self._due_timer, self._retention_timer):
            if timer is not None:
                timer.cancel()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.cancel()
        for stream in tuple(self._streams):
            await stream.close()
        tasks = [task for task in (self._poller, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(StorageError):
            await self._count_sizes()
        await asyncio.to_thread(self._close_readers)
        await self.writer.close()
        self._lock.close()

    def _close_readers(self) -> None:
        # Under the lock: the last connection of all processes to close moves the log into the database.
        with self._lock:
            self.readers.close()
            if self._watch is not None:
                self._watch.close()

    # -- publishing ------------------------------------------------------------------------------

    async def append(
        self,
        topic: str,
        records: Sequence[Record],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        state: Mapping[str, bytes] | None = None,
    ) -> Sequence[Position | None]:
        """Write the records; returns when they are on disk."""
        before = None if not state else partial(tables.save_state, state=state)
        return await self.append_after(before, topic, records, timeout)

    async def append_after(
        self,
        before: Callable[[sqlite3.Connection], object] | None,
        topic: str,
        records: Sequence[Record],
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Sequence[Position | None]:
        """Write the records in one transaction with what ``before`` does. It may refuse by an exception, as long as it
        has changed nothing.
        """
        rows = [row_of(record) for record in records]
        size = sum(len(row[5]) + len(row[6]) for row in rows)
        if self._waiters or not self._has_room(len(rows), size):
            await self._wait_for_room(len(rows), size, timeout)
        if self._closed:
            raise BusClosedError("the bus is closed")
        now = self.clock.time()
        due = [record.deliver_at for record in records]
        late = any(at is not None and at > now for at in due)
        self._queued += len(rows)
        self._queued_bytes += size
        partitions = self.options.partitions

        def work(connection: sqlite3.Connection) -> tuple[Sequence[Position | None], int]:
            if before is not None:
                before(connection)
            if not rows:
                return [], 0
            target = tables.ensure_topic(connection, topic, partitions)
            if not late:
                return tables.append(connection, target, rows, now), target.next_offset + len(rows)
            return self._append_some(connection, target, rows, due, now)

        positions, latest = await self.writer.submit(
            work, len(rows) or 1, lambda: self._written(len(rows), size), size
        )
        if latest:
            self._sizes[topic] = self._sizes.get(topic, 0) + size
            self._appended(topic, latest)
        if late:
            self._arm_due()
        return positions

    def _append_some(
        self,
        connection: sqlite3.Connection,
        topic: Topic,
        rows: Sequence[Row],
        due: Sequence[float | None],
        now: float,
    ) -> tuple[Sequence[Position | None], int]:
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
        return positions, topic.next_offset + len(at_once)

    def _has_room(self, count: int, size: int) -> bool:
        if self._queued == 0:
            return True
        return (
            self._queued + count <= self.options.max_queued
            and self._queued_bytes + size <= self.options.max_queued_bytes
        )

    async def _wait_for_room(self, count: int, size: int, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        late = loop.create_future()
        timer = (
            self.clock.call_later(timeout, lambda: None if late.done() else late.set_result(None))
            if timeout > 0
            else None
        )
        turn: asyncio.Future[None] = loop.create_future()
        self._waiters.append(turn)
        try:
            while timer is not None and not late.done():
                if self._waiters[0] is turn and self._has_room(count, size):
                    return
                await asyncio.wait((turn, late), return_when=asyncio.FIRST_COMPLETED)
                if self._closed:
                    raise BusClosedError("the bus is closed")
                if turn.done():
                    # Called to look again; the place in the queue is kept.
                    fresh: asyncio.Future[None] = loop.create_future()
                    self._waiters[self._waiters.index(turn)] = fresh
                    turn = fresh
        finally:
            if timer is not None:
                timer.cancel()
            if turn in self._waiters:
                self._waiters.remove(turn)
            self._call_next()
        raise BackpressureError(
            f"{self._queued:,} records wait to be written to {self.path}; there was no room within {timeout:g} s and "
            "nothing was published. Publish slower, or raise the option 'max_queued'"
        )

    def _written(self, count: int, size: int) -> None:
        self._queued -= count
        self._queued_bytes -= size
        self._call_next()

    def _call_next(self) -> None:
        if self._waiters and not self._waiters[0].done():
            self._waiters[0].set_result(None)

    def _appended(self, topic: str, latest: int) -> None:
        if latest <= self.latest.get(topic, latest):
            return  # known, or nobody here reads the topic
        self.latest[topic] = latest
        for stream in self._streams:
            if stream.topic == topic:
                stream.changed.set()

    # -- what other processes do -----------------------------------------------------------------

    async def _poll(self) -> None:
        watch = self._watch
        assert watch is not None
        seen = None
        while True:
            await asyncio.sleep(
                self.options.poll if self._streams or self._due_at is not None else 10 * self.options.poll
            )
            try:
                version = watch.execute("PRAGMA data_version").fetchone()[0]
                if version == seen:
                    continue
                seen = version
                for topic in {stream.topic for stream in self._streams}:
                    try:
                        self._appended(topic, read_topic(watch, topic).next_offset)
                    except TopicNotFoundError:
                        self._topic_gone(topic)
                self._arm_due()
            except (sqlite3.Error, StorageError) as error:
                log.warning("cannot look for changes in %s: %s", self.path, error)

    def _topic_gone(self, name: str) -> None:
        for stream in tuple(self._streams):
            if stream.topic == name:
                stream._end()

    def _arm_due(self) -> None:
        """Set the timer for the record that is due first."""
        if self._closed or self._watch is None:
            return
        due = self._watch.execute("SELECT min(due) FROM delayed").fetchone()[0]
        if due == self._due_at and self._due_timer is not None:
            return
        if self._due_timer is not None:
            self._due_timer.cancel()
            self._due_timer = None
        self._due_at = due
        if due is not None:
            wait = max(due - self.clock.time(), 0.0)
            if wait <= CLOCK_LOOK:
                self._due_timer = self.clock.call_later(wait, lambda: self._spawn(self._release_due()))
            else:
                self._due_timer = self.clock.call_later(CLOCK_LOOK, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        self._due_timer = None
        self._arm_due()

    async def _release_due(self) -> None:
        self._due_timer = None
        self._due_at = None
        now = self.clock.time()
        try:
            names = await self.writer.submit(lambda c: tables.release_due(c, now))
            for name in names:
                topic = await self.readers.run(partial(tables.read_topic, name=name))
                self._appended(name, topic.next_offset)
        except StorageError as error:
            log.warning("delayed records could not be released, again in 1 s: %s", error)
            await self.clock.sleep(1.0)
        except TopicNotFoundError:
            pass
        self._arm_due()

    def _arm_retention(self) -> None:
        if not self._closed:
            self._retention_timer = self.clock.call_later(
                self.options.retention_interval, lambda: self._spawn(self._retain())
            )

    async def _retain(self) -> None:
        options = self.options
        with contextlib.suppress(StorageError):  # tried again at the next turn
            await self._count_sizes()
            while await self.writer.submit(
                lambda c: tables.retain(
                    c,
                    self.clock.time(),
                    options.retention_seconds,
                    options.retention_bytes,
                    options.retention_records,
                ),
                1_000,
            ):
                pass
        self._arm_retention()

    async def _count_sizes(self) -> None:
        sizes, self._sizes = self._sizes, {}
        if sizes:
            await self.writer.submit(lambda c: tables.add_size(c, sizes))

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- consuming -------------------------------------------------------------------------------

    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> SqliteStream:
        """Open a stream."""
        token = uuid4().hex
        options = self.options

        def begin(connection: sqlite3.Connection) -> tuple[Topic, dict[int, int]]:
            topic = tables.ensure_topic(connection, request.topic, options.partitions)
            if request.group is not None:
                me = groups.Membership(topic.name, request.group, token, request.member)
                groups.join(connection, topic, me, request.start, request.reset, options.lease)
            return topic, read_start(connection, topic, request.start)

        topic, offsets = await self.writer.submit(begin)
        stream = SqliteStream(self, topic, request, listener, token)
        self._streams.add(stream)
        self.latest[topic.name] = max(topic.next_offset, self.latest.get(topic.name, 0))
        try:
            if request.group is None:
                await stream.start_alone(offsets)
            else:
                self.kick_group(stream)
                await stream.start_in_group()
        except BaseException:
            await stream.close()
            raise
        return stream

    def forget(self, stream: SqliteStream) -> None:
        """A stream was closed."""
        self._streams.discard(stream)
        if all(other.topic != stream.topic for other in self._streams):
            self.latest.pop(stream.topic, None)

    def kick_group(self, changed: SqliteStream) -> None:
        """The members of a group changed: those of this process look at once, others within a second."""
        for stream in self._streams:
            if stream is not changed and stream.same_group(changed):
                stream.kick.set()

    async def read(
        self, topic: str, start: Mapping[int, int] | StartAt | datetime, limit: int
    ) -> Sequence[Delivery]:
        """Look at records."""

        def work(connection: sqlite3.Connection) -> list[Delivery]:
            found = read_topic(connection, topic)
            offsets = (
                {
                    p: min(max(o, found.first_offset), found.next_offset)
                    for p, o in start.items()
                    if 0 <= p < found.partitions
                }
                if isinstance(start, Mapping)
                else read_start(connection, found, start)
            )
            if not offsets:
                return []
            left = dict.fromkeys(offsets, limit)
            chosen: list[Delivery] = []
            begin = dict(offsets)
            while begin:
                page = scan(connection, found, begin, EVERYTHING, limit * len(begin), max(limit, 1_000))
                for delivery in page.deliveries:
                    if left[delivery.partition] > 0:
                        left[delivery.partition] -= 1
                        chosen.append(delivery)
                if page.end >= found.next_offset:
                    break
                begin = {p: max(page.end, at) for p, at in begin.items() if left[p] > 0}
            return chosen

        return await self.readers.run(work)

    async def load_state(self, key: str) -> bytes | None:
        """A value of the caller's own."""
        row = await self.readers.run(
            lambda c: c.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
        )
        return None if row is None else bytes(row[0])

    # -- administration --------------------------------------------------------------------------

    async def create_topic(self, name: str, config: TopicConfig) -> TopicInfo:
        """Make or change a topic."""
        if config.partitions is not None and not 1 <= config.partitions <= MAX_PARTITIONS:
            raise ConfigurationError(f"partitions must be 1 to {MAX_PARTITIONS}, not {config.partitions}")
        topic = await self.writer.submit(
            lambda c: tables.configure_topic(c, name, config, self.options.partitions)
        )
        for stream in self._streams:
            if stream.topic == name:
                stream.kick.set()
        return _info(topic)

    async def delete_topic(self, name: str) -> None:
        """Remove a topic; its streams end."""
        await self.writer.submit(lambda c: tables.delete_topic(c, name))
        self._topic_gone(name)

    async def topics(self) -> Sequence[TopicInfo]:
        """All topics, by name."""
        await self._count_sizes()
        return [_info(topic) for topic in await self.readers.run(tables.read_topics)]

    async def groups(self) -> Sequence[GroupInfo]:
        """All groups, by topic, name and partition."""

        def work(connection: sqlite3.Connection) -> list[GroupInfo]:
            found: list[GroupInfo] = []
            for topic in tables.read_topics(connection):
                offsets: dict[str, dict[int, int]] = {}
                for group, part, offset in connection.execute(
                    "SELECT grp, part, offset FROM offsets WHERE topic = ? ORDER BY grp, part", (topic.id,)
                ):
                    offsets.setdefault(group, {})[part] = offset
                for group, parts in offsets.items():
                    owners = dict(
                        connection.execute(
                            "SELECT o.part, m.name FROM owners o JOIN members m USING (topic, grp, token)"
                            " WHERE o.topic = ? AND o.grp = ?",
                            (topic.id, group),
                        ).fetchall()
                    )
                    lags = tables.read_lag(connection, topic, parts.items())
                    found += [
                        GroupInfo(
                            topic.name, group, part, offset, topic.next_offset, lags[part], owners.get(part)
                        )
                        for part, offset in parts.items()
                    ]
            return found

        return await self.readers.run(work)

    async def seek_group(self, topic: str, group: str, start: Start) -> Mapping[int, int]:
        """Move a group that has no members."""
        lease = self.options.lease
        return await self.writer.submit(lambda c: groups.seek(c, read_topic(c, topic), group, start, lease))


def _info(topic: Topic) -> TopicInfo:
    parts = range(topic.partitions)
    return TopicInfo(
        topic.name,
        topic.partitions,
        topic.next_offset - topic.first_offset,
        topic.size,
        dict.fromkeys(parts, topic.first_offset),
        dict.fromkeys(parts, topic.next_offset),
        TopicConfig(
            topic.partitions, topic.retention_seconds, topic.retention_bytes, topic.retention_records
        ),
    )
