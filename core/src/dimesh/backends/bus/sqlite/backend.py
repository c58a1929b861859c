"""The bus backend on one SQLite file: the durable log of one machine, for any number of its processes."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal
from uuid import uuid4

from dimesh.backends.bus.sqlite import groups, tables
from dimesh.backends.bus.sqlite.groups import Turn
from dimesh.backends.bus.sqlite.options import MAX_PARTITIONS, MAX_RECORD, SqliteOptions
from dimesh.backends.bus.sqlite.pages import Readers, read_attempts, scan
from dimesh.backends.bus.sqlite.session import Session
from dimesh.backends.bus.sqlite.stream import SqliteStream
from dimesh.backends.bus.sqlite.tables import Topic, read_start, read_topic
from dimesh.backends.bus.sqlite.upkeep import Upkeep
from dimesh.backends.bus.sqlite.writer import Writer
from dimesh.capabilities import Capabilities, Capability, Support
from dimesh.clock import Clock
from dimesh.errors import ConfigurationError, RefusedError
from dimesh.spi.bus import (
    DEFAULT_TIMEOUT,
    EVERYTHING,
    Attempts,
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


class SqliteBackend:
    """See :class:`dimesh.spi.bus.BusBackend`."""

    name = "sqlite"
    family: Literal["log", "queue"] = "log"
    commit_interval = 0.1
    commit_every = 5_000

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
        self._session = Session(options, clock)
        self._upkeep: Upkeep | None = None
        self._streams: set[SqliteStream] = set()

    @property
    def path(self) -> Path:
        """The database file."""
        return self._session.path

    @property
    def writer(self) -> Writer:
        """The thread that writes."""
        return self._session.writer

    @property
    def readers(self) -> Readers:
        """The threads that read."""
        return self._session.readers

    # -- life ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the database, or create it."""
        await self._session.open()
        self._upkeep = Upkeep(self._session)

    async def close(self) -> None:
        """Write what is pending, and close the file."""
        closed, upkeep = self._session.closed, self._upkeep
        self._session.refuse()
        if closed or upkeep is None:
            return
        upkeep.stop_timers()
        for stream in tuple(self._streams):
            await stream.close()
        await upkeep.close()
        await self._session.close()

    # -- publishing ------------------------------------------------------------------------------

    async def append(
        self,
        topic: str,
        records: Sequence[Record],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        state: Mapping[str, bytes] | None = None,
    ) -> Sequence[Position | None]:
        """Write the records, and return when they are on disk."""
        before = None if not state else partial(tables.save_state, state=state)
        return await self._session.append(before, topic, records, timeout)

    def check_records(self, topic: str, records: Sequence[Record]) -> None:
        """Refuse records that are larger than SQLite stores."""
        for record in records:
            size = len(record.header) + len(record.payload)
            if size > MAX_RECORD:
                raise RefusedError(
                    f"a record of {size:,} bytes is larger than SQLite stores ({MAX_RECORD:,}); nothing was published"
                )

    # -- consuming -------------------------------------------------------------------------------

    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> SqliteStream:
        """Open a stream; members of a group share the partitions."""
        options = self.options

        def begin(connection: sqlite3.Connection) -> tuple[Topic, Turn | dict[int, int]]:
            topic = tables.ensure_topic(connection, request.topic, options.partitions)
            if me is None:
                return topic, read_start(connection, topic, request.start)
            return topic, groups.join(connection, topic, me, request.start, request.reset, options.lease)

        session = self._session
        me = None
        if request.group is not None:
            me = groups.Membership(request.topic, request.group, uuid4().hex, request.member, session.token)
            session.send_heartbeats()
        topic, first = await self.writer.submit(begin)
        stream = SqliteStream(session, topic, request, listener, me, self._streams.discard)
        self._streams.add(stream)
        session.add(stream, topic.next_offset)
        try:
            if isinstance(first, Turn):
                await stream.start_in_group(first)
            else:
                await stream.start_alone(first)
        except BaseException:
            await stream.close()
            raise
        return stream

    async def read(
        self, topic: str, start: Mapping[int, int] | StartAt | datetime, limit: int
    ) -> Sequence[Delivery]:
        """Return records without a subscription."""

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
        """Return a value of the caller's own, or None."""
        return await self.readers.run(partial(tables.load_state, key=key, path=self.path))

    # -- administration --------------------------------------------------------------------------

    async def create_topic(self, name: str, config: TopicConfig) -> TopicInfo:
        """Create a topic or change its settings."""
        if config.partitions is not None and not 1 <= config.partitions <= MAX_PARTITIONS:
            raise ConfigurationError(f"partitions must be 1 to {MAX_PARTITIONS}, not {config.partitions}")
        topic = await self.writer.submit(
            lambda c: tables.configure_topic(c, name, config, self.options.partitions)
        )
        return _info(topic)

    async def delete_topic(self, name: str) -> None:
        """Remove a topic; its streams end."""
        self._session.end_topic(await self.writer.submit(lambda c: tables.delete_topic(c, name)))

    async def topics(self) -> Sequence[TopicInfo]:
        """Describe all topics, by name."""
        await self._session.count_sizes()
        return [_info(topic) for topic in await self.readers.run(tables.read_topics)]

    async def groups(self) -> Sequence[GroupInfo]:
        """Describe all groups, by topic, name and partition."""

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

    async def read_attempts(
        self, topic: str, group: str, positions: Collection[Position]
    ) -> Mapping[Position, Attempts]:
        """See :class:`dimesh.spi.bus.KeptAttempts`."""

        def work(connection: sqlite3.Connection) -> dict[Position, Attempts]:
            number = read_topic(connection, topic).id
            found: dict[Position, Attempts] = {}
            for position in positions:
                offset = position.offset
                for attempts in read_attempts(connection, number, group, offset, offset + 1).values():
                    found[position] = attempts
            return found

        return await self.readers.run(work)

    async def held_back(self) -> AsyncIterator[tuple[str, Record]]:
        """See :class:`dimesh.spi.bus.HeldBackRecords`."""
        after: tables.Due = (0.0, 0)
        while page := await self.readers.run(partial(tables.read_delayed, after=after)):
            for _, topic, record in page:
                yield topic, record
            after = page[-1][0]

    async def seek_group(self, topic: str, group: str, start: Start) -> Mapping[int, int]:
        """Move the position of a group that has no members."""
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
