"""A topic in memory: a log for each partition, who wants what, and how much room there is."""

from __future__ import annotations

import asyncio
import itertools
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from dimesh.backends.memory.group import Group
from dimesh.backends.memory.options import MemoryOptions
from dimesh.backends.memory.stream import MemoryStream
from dimesh.spi.bus import (
    Delivery,
    Record,
    Start,
    StartAt,
    TopicConfig,
    TopicInfo,
    partition_of,
)

MAX_ROUTES: Final = 4_096


class Log:
    """One partition."""

    __slots__ = ("next_offset", "partition", "records", "routes", "trim_at")

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.next_offset = 0
        self.records: deque[Delivery] = deque()
        self.routes: dict[tuple[str, str, str], tuple[MemoryStream, ...]] = {}
        self.trim_at = 1_024

    @property
    def earliest(self) -> int:
        return self.records[0].offset if self.records else self.next_offset

    def since(self, offset: int) -> Iterable[Delivery]:
        """Offsets in a memory log have no holes, so this needs no search."""
        skip = max(offset - self.earliest, 0)
        return itertools.islice(self.records, skip, None)


class Topic:
    def __init__(
        self, name: str, partitions: int, options: MemoryOptions, time: Any, config: TopicConfig | None
    ) -> None:
        self.name = name
        self.config = config or TopicConfig()
        self.history = options.history
        self.capacity = options.capacity
        self.logs = [Log(p) for p in range(partitions)]
        self.partitions = partitions
        self.groups: dict[str, Group] = {}
        self.streams: list[MemoryStream] = []
        self.waiters: deque[tuple[asyncio.Future[None], Sequence[Record]]] = deque()
        self._time = time
        self._apply(self.config)

    def log_of(self, key: str) -> Log:
        """The partition of a key."""
        return self.logs[partition_of(key, self.partitions)] if self.partitions > 1 else self.logs[0]

    def _apply(self, config: TopicConfig) -> None:
        if config.retention_records is not None:
            self.history = max(config.retention_records, 0)
        elif config.retention_seconds is not None or config.retention_bytes is not None:
            self.history = max(self.history, 1_000_000)  # bounded by age or size instead
        self.update_keeps()

    async def configure(self, config: TopicConfig) -> None:
        self.config = TopicConfig(
            *(
                new if new is not None else old
                for new, old in zip(_settings(config), _settings(self.config), strict=True)
            )
        )
        self._apply(self.config)
        if config.partitions is not None and config.partitions > self.partitions:
            self.logs.extend(Log(p) for p in range(self.partitions, config.partitions))
            self.partitions = config.partitions
            for group in self.groups.values():
                for log in self.logs:
                    group.committed.setdefault(log.partition, 0)
                await group.rebalance(self)
            for stream in self.streams:
                if stream.group is None:
                    stream.delivered = {
                        log.partition: log.next_offset for log in self.logs
                    } | stream.delivered
        for log in self.logs:
            self.trim(log)

    def update_keeps(self) -> None:
        self.keeps = bool(self.groups) or self.history > 0
        self.limit = self.history + self.capacity

    # -- routing ---------------------------------------------------------------------------------

    def route(self, log: Log, record: Record) -> tuple[MemoryStream, ...]:
        """Which streams want a record like this one, from now on without asking again."""
        if len(log.routes) >= MAX_ROUTES:  # input is hostile: ever new types must not grow the table
            log.routes.clear()
        found = tuple(
            stream
            for stream in self.streams
            if log.partition in stream.delivered
            and stream.filter.wants(record.event_type, record.pillar, record.priority)
        )
        log.routes[record.event_type, record.pillar, record.priority] = found
        return found

    def forget_routes(self) -> None:
        for log in self.logs:
            log.routes.clear()

    def add_stream(self, stream: MemoryStream) -> None:
        self.streams.append(stream)
        self.forget_routes()

    # -- room ------------------------------------------------------------------------------------

    def has_room(self, records: Sequence[Record]) -> bool:
        capacity = self.capacity
        # A batch larger than the bound goes through when there is nothing else: it could never go otherwise.
        count = len(records)
        for stream in self.streams:
            held = len(stream.mailbox)
            if held and held + count > capacity:
                return False
        if self.groups:
            for log in self.logs:
                if len(log.records) - self.history + count > capacity:
                    held = self.backlog(log)
                    if held and held + count > capacity:
                        return False
        return True

    def backlog(self, log: Log) -> int:
        """Records that some group has not committed."""
        return log.next_offset - min(
            (group.effective(log) for group in self.groups.values()), default=log.next_offset
        )

    def why_full(self, records: Sequence[Record]) -> str:
        for group in self.groups.values():
            waiting = max(log.next_offset - group.effective(log) for log in self.logs)
            if waiting + len(records) > self.capacity:
                members = len(group.members)
                return f"group {group.name!r} has {waiting:,} unhandled events and {members} members"
        return f"a subscription has {self.capacity:,} events waiting"

    def serve_waiters(self) -> None:
        while self.waiters:
            turn, records = self.waiters[0]
            if turn.done():
                self.waiters.popleft()
                continue
            if not self.has_room(records):
                return
            self.waiters.popleft()
            turn.set_result(None)
            # One at a time: the next one is served when this one has appended (or by the next receive).
            asyncio.get_running_loop().call_soon(self.serve_waiters)
            return

    def fail_waiters(self) -> None:
        while self.waiters:
            turn, _ = self.waiters.popleft()
            if not turn.done():
                turn.cancel()

    # -- positions -------------------------------------------------------------------------------

    def resolve(self, start: Start) -> dict[int, int]:
        """The offset of each partition that a start means."""
        if start is StartAt.LATEST:
            return {log.partition: log.next_offset for log in self.logs}
        if start is StartAt.EARLIEST:
            return {log.partition: log.earliest for log in self.logs}
        if isinstance(start, datetime):
            instant = start.timestamp()
            return {
                log.partition: log.earliest + bisect_left(log.records, instant, key=lambda d: d.timestamp)
                for log in self.logs
            }
        assert isinstance(start, Mapping)
        offsets = {log.partition: log.earliest for log in self.logs}
        for partition, offset in start.items():
            if partition in offsets:
                # Never beyond the end: what comes next would be passed over in silence.
                offsets[partition] = min(max(offset, 0), self.logs[partition].next_offset)
        return offsets

    def trim(self, log: Log) -> None:
        """Forget what every group has committed and the history does not cover."""
        keep = log.next_offset - self.history
        for group in self.groups.values():
            keep = min(keep, group.effective(log))
        records = log.records
        while records and records[0].offset < keep:
            records.popleft()
        config = self.config
        if config.retention_seconds is not None:
            oldest = self._time() - config.retention_seconds
            while records and records[0].timestamp < oldest:
                records.popleft()
        if config.retention_bytes is not None:
            size = sum(len(d.record.payload) for d in records)
            while records and size > config.retention_bytes // self.partitions:
                size -= len(records.popleft().record.payload)
        # Each look at the sizes walks the log: the longer it is, the seldomer.
        by_size = config.retention_bytes is not None
        log.trim_at = log.next_offset + max(
            64 if by_size else 1_024, len(records) // 8 if by_size else len(records)
        )
        if self.waiters:
            self.serve_waiters()

    def info(self) -> TopicInfo:
        for log in self.logs:
            self.trim(log)
        return TopicInfo(
            self.name,
            self.partitions,
            sum(len(log.records) for log in self.logs),
            sum(len(d.record.payload) for log in self.logs for d in log.records),
            {log.partition: log.earliest for log in self.logs},
            {log.partition: log.next_offset for log in self.logs},
            self.config,
        )


def _settings(config: TopicConfig) -> tuple[Any, ...]:
    return (
        config.partitions,
        config.retention_seconds,
        config.retention_bytes,
        config.retention_records,
    )
