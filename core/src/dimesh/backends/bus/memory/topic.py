"""A topic in memory: a log for each partition, the streams that read it, and its bound on unhandled records."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from dimesh.backends.bus.memory.group import Group
from dimesh.backends.bus.memory.log import Log
from dimesh.backends.bus.memory.member import Member
from dimesh.backends.bus.memory.options import MemoryOptions
from dimesh.clock import Clock
from dimesh.spi.bus import Record, Start, StartAt, TopicConfig, TopicInfo, partition_of
from dimesh.storage.room import WaitQueue

MAX_ROUTES: Final = 4_096
"""The entries of a log's table of routes; a full table is filled anew."""


class Topic:
    """The partitions of a topic, its groups and streams, and the publishers that wait for room."""

    def __init__(
        self, name: str, partitions: int, options: MemoryOptions, clock: Clock, config: TopicConfig | None
    ) -> None:
        self.name = name
        self.config = config or TopicConfig()
        self.history = options.history
        self.capacity = options.capacity
        self.logs = [Log(p) for p in range(partitions)]
        self.partitions = partitions
        self.groups: dict[str, Group] = {}
        self.streams: list[Member] = []
        self.queue = WaitQueue(clock)
        """The publishers that wait for room."""
        self.waiters = self.queue.waiters
        self._time: Callable[[], float] = clock.time
        self._apply(self.config)

    def log_of(self, key: str) -> Log:
        """Return the partition of a key."""
        return self.logs[partition_of(key, self.partitions)] if self.partitions > 1 else self.logs[0]

    def _apply(self, config: TopicConfig) -> None:
        if config.retention_records is not None:
            self.history = max(config.retention_records, 0)
        elif config.retention_seconds is not None or config.retention_bytes is not None:
            self.history = max(self.history, 1_000_000)  # bounded by age or size instead
        self.update_keeps()

    async def configure(self, config: TopicConfig) -> None:
        """Change those settings that ``config`` gives."""
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
                await self.rebalance(group)
            for stream in self.streams:
                if stream.group is None:
                    stream.delivered = {
                        log.partition: log.next_offset for log in self.logs
                    } | stream.delivered
        for log in self.logs:
            self.trim(log)

    async def rebalance(self, group: Group) -> None:
        """Assign the partitions to the members of a group."""
        await group.rebalance(self.logs)
        self.forget_routes()

    def update_keeps(self) -> None:
        """Decide whether records are kept after they were handed out."""
        self.keeps = bool(self.groups) or self.history > 0
        self.limit = self.history + self.capacity

    # -- routing ---------------------------------------------------------------------------------

    def route(self, log: Log, record: Record) -> tuple[Member, ...]:
        """Return the streams that want records like this one, and remember them until the routes are forgotten."""
        if len(log.routes) >= MAX_ROUTES:  # input is hostile: ever new types must not grow the table
            log.routes.clear()
        found = tuple(
            stream
            for stream in self.streams
            if log.partition in stream.delivered
            and log.partition not in stream.leaving
            and stream.filter.wants(record.event_type, record.pillar, record.priority)
        )
        log.routes[record.event_type, record.pillar, record.priority] = found
        return found

    def forget_routes(self) -> None:
        """Forget the routes: a stream came, went, or changed its partitions."""
        for log in self.logs:
            log.routes.clear()

    def add_stream(self, stream: Member) -> None:
        """Deliver to this stream, too."""
        self.streams.append(stream)
        self.forget_routes()

    # -- room ------------------------------------------------------------------------------------

    def has_room(self, records: Sequence[Record], capacity: int) -> bool:
        """Return whether no mailbox and no group's backlog would exceed the capacity."""
        # A batch that is larger than the bound is taken when nothing else is pending: it could never be taken otherwise.
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
        """Return how many records the slowest group has not committed."""
        return log.next_offset - min(
            (group.effective(log) for group in self.groups.values()), default=log.next_offset
        )

    def is_held_up_by(self, event_ids: Collection[str]) -> bool:
        """Return whether one of these events is the first that some group has not handled: until it is, no room comes free."""
        for log in self.logs:
            for group in self.groups.values():
                first = next(iter(log.since(group.effective(log))), None)
                event = None if first is None else first.record.decoded  # what is being handled was decoded
                if event is not None and event.event_id in event_ids:
                    return True
        return False

    def why_full(self, records: Sequence[Record]) -> str:
        """Explain which reader is too slow."""
        for group in self.groups.values():
            waiting = max(log.next_offset - group.effective(log) for log in self.logs)
            if waiting + len(records) > self.capacity:
                members = len(group.members)
                return f"group {group.name!r} has {waiting:,} unhandled events and {members} members"
        return f"a subscription has {self.capacity:,} events waiting"

    # -- positions -------------------------------------------------------------------------------

    def resolve(self, start: Start) -> dict[int, int]:
        """Return the offset of each partition that ``start`` stands for."""
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
                # Never beyond the end: the next records would be skipped silently.
                offsets[partition] = min(max(offset, 0), self.logs[partition].next_offset)
        return offsets

    def trim(self, log: Log) -> None:
        """Remove the records that every group has committed and the history does not cover."""
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
        # Adding up the sizes walks the log: the longer the log, the more rarely it is done.
        by_size = config.retention_bytes is not None
        log.trim_at = log.next_offset + max(
            64 if by_size else 1_024, len(records) // 8 if by_size else len(records)
        )
        if self.waiters:
            self.queue.wake()

    def info(self) -> TopicInfo:
        """Describe the topic."""
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
