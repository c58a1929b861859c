"""The bus backend in memory: the reference for all others, and the one for tests and single processes.

A topic is a log for each partition. Every open stream has a mailbox; an append puts the record into the mailboxes
that want it, found by the record's type, pillar and priority in a table that is filled as combinations occur. The
log itself keeps only what a group has not committed, and the configured history.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

from dimesh.capabilities import Capabilities, Capability
from dimesh.clock import Clock, Handle
from dimesh.errors import (
    BackpressureError,
    BusClosedError,
    BusError,
    ConfigurationError,
    FencedError,
    NotOfferedError,
    PositionLostError,
    TopicNotFoundError,
)
from dimesh.hookspecs import CONTRACT_VERSION, hookimpl
from dimesh.spi.bus import (
    DEFAULT_TIMEOUT,
    Attempts,
    Batch,
    BusBackend,
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
    partition_of,
)
from dimesh.spi.options import Options, parse_options

MAX_ROUTES: Final = 4_096
MAX_PARTITIONS: Final = 1_024


class MemoryOptions(Options, frozen=True):
    """Options of the memory bus."""

    partitions: int = 1
    """Of a new topic."""
    history: int = 0
    """Handled records to keep for each partition; 0: nothing is kept after handling."""
    capacity: int = 10_000
    """Unhandled records for each stream and partition; a publish into a full one waits."""


class MemoryBackend:
    """See :class:`dimesh.spi.bus.BusBackend`."""

    name = "memory"
    family: Literal["log", "queue"] = "log"
    commit_interval = 0.2
    commit_every = 256

    def __init__(self, options: MemoryOptions, clock: Clock) -> None:
        if not 1 <= options.partitions <= MAX_PARTITIONS:
            raise ConfigurationError(f"bus 'memory': partitions must be 1 to {MAX_PARTITIONS}")
        if options.capacity < 1 or options.history < 0:
            raise ConfigurationError("bus 'memory': capacity must be 1 or more, history not negative")
        self.options = options
        self.capabilities = Capabilities(
            Capability.GROUPS,
            Capability.KEY_ORDER,
            Capability.DELAYED_DELIVERY,
            Capability.DURABLE_ATTEMPTS,
            Capability.FILTER_PUSHDOWN,
            Capability.RETENTION,
            Capability.TOPIC_ADMIN,
            Capability.REPLAY,
            Capability.START_BY_TIME,
            notes={Capability.REPLAY: "as far back as the option 'history' keeps"},
        )
        self._clock = clock
        self._time = clock.time
        self._topics: dict[str, _Topic] = {}
        self._delayed: list[tuple[float, int, str, Record]] = []
        self._tie = itertools.count()
        self._timer: Handle | None = None
        self._closed = False

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Forget everything."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for topic in self._topics.values():
            for stream in tuple(topic.streams):
                stream.shut()
            topic.fail_waiters()
        self._topics.clear()
        self._delayed.clear()

    # -- publishing ------------------------------------------------------------------------------

    async def append(
        self,
        topic: str,
        records: Sequence[Record],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        state: Mapping[str, bytes] | None = None,
    ) -> Sequence[Position | None]:
        """Hand the records to every stream that wants them."""
        if state is not None:
            raise NotOfferedError("the memory bus keeps no state; use the sqlite bus for that")
        target = self._topics.get(topic) or self._make(topic)
        if len(records) == 1 and not target.waiters and records[0].deliver_at is None:
            # The usual case, spelled out: one record, now, and there is room.
            record = records[0]
            log = target.log_of(record.key) if target.partitions > 1 else target.logs[0]
            routes = log.routes.get((record.event_type, record.pillar, record.priority))
            if routes is None:
                routes = target.route(log, record)
            if len(log.records) < target.limit:
                capacity = target.capacity
                for stream in routes:
                    if len(stream.mailbox) >= capacity:
                        break
                else:
                    offset = log.next_offset
                    log.next_offset = offset + 1
                    delivery = Delivery(record, log.partition, offset, self._time())
                    if target.keeps:
                        log.records.append(delivery)
                        if offset >= log.trim_at:
                            target.trim(log)
                    for stream in routes:
                        stream.mailbox.append(delivery)
                        if stream.waiter is not None:
                            stream.wake()
                    return (_position(Position, (log.partition, offset)),)
        if target.waiters or not target.has_room(records):
            await self._wait_for_room(target, records, timeout)
        return self._take(target, records)

    def _take(self, topic: _Topic, records: Sequence[Record]) -> list[Position | None]:
        now = self._time()
        positions: list[Position | None] = []
        for record in records:
            if record.deliver_at is not None and record.deliver_at > now:
                self._hold_back(record.deliver_at, topic.name, record)
                positions.append(None)
                continue
            log = topic.log_of(record.key)
            routes = log.routes.get((record.event_type, record.pillar, record.priority))
            if routes is None:
                routes = topic.route(log, record)
            positions.append(self._put(topic, log, record, routes, now))
        return positions

    def _put(
        self, topic: _Topic, log: _Log, record: Record, routes: Sequence[_MemoryStream], now: float
    ) -> Position:
        offset = log.next_offset
        log.next_offset = offset + 1
        delivery = Delivery(record, log.partition, offset, now)
        if topic.keeps:
            log.records.append(delivery)
            if offset >= log.trim_at:
                topic.trim(log)
        for stream in routes:
            stream.mailbox.append(delivery)
            if stream.waiter is not None:
                stream.wake()
        return _position(Position, (log.partition, offset))

    async def _wait_for_room(self, topic: _Topic, records: Sequence[Record], timeout: float) -> None:
        # Those who wait are served in the order in which they came, which keeps the order of a key.
        if timeout > 0:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waiter = (turn, records)
            topic.waiters.append(waiter)
            timer = self._clock.call_later(timeout, lambda: turn.done() or turn.cancel())
            try:
                await turn
            except asyncio.CancelledError:
                if waiter in topic.waiters:
                    topic.waiters.remove(waiter)
                topic.serve_waiters()
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
            else:
                # Room was promised; it is used before anybody else runs.
                return
            finally:
                timer.cancel()
        if self._closed:
            raise BusClosedError("the bus is closed")
        raise BackpressureError(
            f"topic {topic.name!r} is full: {topic.why_full(records)}. Nothing was published within {timeout:g} s. "
            "Handle faster (concurrency, batches), raise the option 'capacity', or use the sqlite bus"
        )

    def _hold_back(self, due: float, topic: str, record: Record) -> None:
        heapq.heappush(self._delayed, (due, next(self._tie), topic, record))
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._delayed and not self._closed:
            wait = max(self._delayed[0][0] - self._time(), 0.0)
            self._timer = self._clock.call_later(wait, self._release_due)

    def _release_due(self) -> None:
        self._timer = None
        now = self._time()
        while self._delayed and self._delayed[0][0] <= now:
            _, _, name, record = heapq.heappop(self._delayed)
            # Past the bound if need be: it was accepted long ago.
            self._take(self._topics.get(name) or self._make(name), (record,))
        self._arm()

    # -- consuming -------------------------------------------------------------------------------

    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> _MemoryStream:
        """Open a stream; members of a group share the partitions."""
        topic = self._topics.get(request.topic) or self._make(request.topic)
        stream = _MemoryStream(self, topic, request, listener)
        if request.group is None:
            first = topic.resolve(request.start)
            await listener.assigned(first)
            stream.take_over(topic.resolve(request.start) if request.start is StartAt.LATEST else first)
            topic.add_stream(stream)
            return stream
        group = topic.groups.get(request.group)
        if group is None:
            group = topic.groups[request.group] = _Group(request.group)
            topic.update_keeps()
        if request.reset and not group.members:
            group.committed.clear()
        fresh = topic.resolve(request.start)
        for partition, offset in fresh.items():
            group.committed.setdefault(partition, offset)
        group.members.append(stream)
        topic.add_stream(stream)
        await group.rebalance(topic)
        return stream

    async def read(
        self, topic: str, start: Mapping[int, int] | StartAt | datetime, limit: int
    ) -> Sequence[Delivery]:
        """Look into the history."""
        found = self._find(topic)
        chosen: list[Delivery] = []
        offsets = found.resolve(start) if not isinstance(start, Mapping) else start
        for partition, offset in offsets.items():
            if 0 <= partition < found.partitions:
                chosen.extend(itertools.islice(found.logs[partition].since(offset), limit))
        chosen.sort(key=lambda d: (d.timestamp, d.partition, d.offset))
        return chosen

    def history(self, topic: str) -> list[Delivery]:
        """What is kept of a topic, in the order it was taken."""
        found = self._topics.get(topic)
        if found is None:
            return []
        last = self.options.history
        kept = [d for log in found.logs for d in tuple(log.records)[-last:]] if last else []
        kept.sort(key=lambda d: d.timestamp)
        return kept

    async def load_state(self, key: str) -> bytes | None:
        """Not offered."""
        raise NotOfferedError("the memory bus keeps no state; use the sqlite bus for that")

    # -- administration --------------------------------------------------------------------------

    async def create_topic(self, name: str, config: TopicConfig) -> TopicInfo:
        """Make or change a topic."""
        topic = self._topics.get(name)
        if topic is None:
            topic = self._make(name, config)
        else:
            if config.partitions is not None and config.partitions < topic.partitions:
                raise ConfigurationError(
                    f"topic {name!r} has {topic.partitions} partitions; their number can only grow"
                )
            if config.partitions is not None and config.partitions > MAX_PARTITIONS:
                raise ConfigurationError(f"at most {MAX_PARTITIONS} partitions")
            await topic.configure(config)
        return topic.info()

    async def delete_topic(self, name: str) -> None:
        """Remove a topic; its streams end."""
        topic = self._find(name)
        del self._topics[name]
        for stream in tuple(topic.streams):
            stream.shut()
        topic.fail_waiters()
        self._delayed = [held for held in self._delayed if held[2] != name]
        heapq.heapify(self._delayed)

    async def topics(self) -> Sequence[TopicInfo]:
        """All topics, by name."""
        return [self._topics[name].info() for name in sorted(self._topics)]

    async def groups(self) -> Sequence[GroupInfo]:
        """All groups, by topic, name and partition."""
        return [
            info
            for name in sorted(self._topics)
            for group in sorted(self._topics[name].groups.values(), key=lambda g: g.name)
            for info in group.infos(self._topics[name])
        ]

    async def seek_group(self, topic: str, group: str, start: Start) -> Mapping[int, int]:
        """Move a group that has no members."""
        found = self._find(topic)
        known = found.groups.get(group)
        if known is None:
            known = found.groups[group] = _Group(group)
            found.update_keeps()
        if known.members:
            raise BusError(f"group {group!r} of topic {topic!r} has active members: stop them first")
        known.committed = dict(found.resolve(start))
        return dict(known.committed)

    def _make(self, name: str, config: TopicConfig | None = None) -> _Topic:
        if self._closed:
            raise BusClosedError("the bus is closed")
        partitions = (config.partitions if config else None) or self.options.partitions
        if not 1 <= partitions <= MAX_PARTITIONS:
            raise ConfigurationError(f"partitions must be 1 to {MAX_PARTITIONS}, not {partitions}")
        topic = self._topics[name] = _Topic(name, partitions, self.options, self._time, config)
        return topic

    def _find(self, name: str) -> _Topic:
        topic = self._topics.get(name)
        if topic is None:
            raise TopicNotFoundError(f"no topic is named {name!r}; 'dimesh topics' lists them")
        return topic


class _Log:
    """One partition."""

    __slots__ = ("next_offset", "partition", "records", "routes", "trim_at")

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.next_offset = 0
        self.records: deque[Delivery] = deque()
        self.routes: dict[tuple[str, str, str], tuple[_MemoryStream, ...]] = {}
        self.trim_at = 1_024

    @property
    def earliest(self) -> int:
        return self.records[0].offset if self.records else self.next_offset

    def since(self, offset: int) -> Iterable[Delivery]:
        """Offsets in a memory log have no holes, so this needs no search."""
        skip = max(offset - self.earliest, 0)
        return itertools.islice(self.records, skip, None)


class _Topic:
    def __init__(
        self, name: str, partitions: int, options: MemoryOptions, time: Any, config: TopicConfig | None
    ) -> None:
        self.name = name
        self.config = config or TopicConfig()
        self.history = options.history
        self.capacity = options.capacity
        self.logs = [_Log(p) for p in range(partitions)]
        self.partitions = partitions
        self.groups: dict[str, _Group] = {}
        self.streams: list[_MemoryStream] = []
        self.waiters: deque[tuple[asyncio.Future[None], Sequence[Record]]] = deque()
        self._time = time
        self._apply(self.config)

    def log_of(self, key: str) -> _Log:
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
            self.logs.extend(_Log(p) for p in range(self.partitions, config.partitions))
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

    def route(self, log: _Log, record: Record) -> tuple[_MemoryStream, ...]:
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

    def add_stream(self, stream: _MemoryStream) -> None:
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

    def backlog(self, log: _Log) -> int:
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
                offsets[partition] = offset
        return offsets

    def trim(self, log: _Log) -> None:
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
        log.trim_at = log.next_offset + max(1_024, len(records))
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


class _Group:
    def __init__(self, name: str) -> None:
        self.name = name
        self.committed: dict[int, int] = {}
        self.members: list[_MemoryStream] = []
        self.attempts: dict[tuple[int, int], Attempts] = {}
        self._busy = asyncio.Lock()

    def owner(self, partition: int) -> _MemoryStream | None:
        return next((m for m in self.members if partition in m.delivered), None)

    def effective(self, log: _Log) -> int:
        """The committed offset; past records that the owner's filter left out, where nothing else is open."""
        committed = self.committed.get(log.partition, log.next_offset)
        owner = self.owner(log.partition)
        if (
            owner is not None
            and committed >= owner.delivered[log.partition]
            and not any(d.partition == log.partition for d in owner.mailbox)
        ):
            return log.next_offset
        return committed

    async def rebalance(self, topic: _Topic) -> None:
        """Partition i belongs to member i modulo their number; what moves is revoked before it is assigned."""
        async with self._busy:
            members = [m for m in self.members if not m.closed]
            wanted: dict[_MemoryStream, set[int]] = {m: set() for m in members}
            for log in topic.logs:
                if members:
                    wanted[members[log.partition % len(members)]].add(log.partition)
            for member in members:
                gone = sorted(member.delivered.keys() - wanted[member])
                if gone:
                    member.stop_delivering(gone)
                    await member.listener.revoked(gone)
                    member.give_up(gone)
            for member in members:
                new = {p: self.committed.get(p, 0) for p in sorted(wanted[member] - member.delivered.keys())}
                if new and not member.closed:
                    await member.listener.assigned(new)
                    member.take_over(new)
            topic.forget_routes()

    def infos(self, topic: _Topic) -> Iterable[GroupInfo]:
        for log in topic.logs:
            owner = self.owner(log.partition)
            effective = self.effective(log)
            yield GroupInfo(
                topic.name,
                self.name,
                log.partition,
                effective,
                log.next_offset,
                log.next_offset - effective,
                owner.member if owner else None,
            )


class _MemoryStream:
    """See :class:`dimesh.spi.bus.Stream`."""

    def __init__(
        self, backend: MemoryBackend, topic: _Topic, request: Subscribe, listener: PartitionListener
    ) -> None:
        self._backend = backend
        self._topic = topic
        self.group = request.group
        self.member = request.member
        self.filter = request.filter
        self.listener = listener
        self.mailbox: deque[Delivery] = deque()
        self.delivered: dict[int, int] = {}
        """Partitions that are ours, with the offset after the last one handed out."""
        self.waiter: asyncio.Future[None] | None = None
        self.closed = False
        self._lost: list[str] = []

    # -- partitions ------------------------------------------------------------------------------

    def take_over(self, offsets: Mapping[int, int]) -> None:
        """These partitions are ours now; their waiting records go into the mailbox."""
        backlog: list[Delivery] = []
        for partition, offset in offsets.items():
            log = self._topic.logs[partition]
            if offset < log.earliest and log.records and log.next_offset > offset:
                self._lost.append(f"partition {partition}: {offset} asked, {log.earliest} is the oldest")
            self.delivered[partition] = max(offset, log.earliest) if offset < log.next_offset else offset
            backlog.extend(
                d
                for d in log.since(offset)
                if self.filter.wants(d.record.event_type, d.record.pillar, d.record.priority)
            )
            if offset > log.next_offset:
                self._lost.append(f"partition {partition}: {offset} asked, {log.next_offset} comes next")
                self.delivered[partition] = log.next_offset
        backlog.sort(key=lambda d: d.timestamp)
        self.mailbox.extend(backlog)
        self._topic.forget_routes()
        if self.mailbox or self._lost:
            self.wake()

    def stop_delivering(self, partitions: Sequence[int]) -> None:
        gone = set(partitions)
        self.mailbox = deque(d for d in self.mailbox if d.partition not in gone)

    def give_up(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self.delivered.pop(partition, None)
        self.stop_delivering(partitions)
        self._topic.forget_routes()

    # -- SPI -------------------------------------------------------------------------------------

    async def receive(self, limit: int) -> Sequence[Batch]:
        while not self.mailbox:
            if self._lost:
                lost, self._lost = self._lost, []
                raise PositionLostError(f"topic {self._topic.name!r}: {'; '.join(lost)}")
            if self.closed:
                return ()
            self.waiter = asyncio.get_running_loop().create_future()
            try:
                await self.waiter
            finally:
                self.waiter = None
        if self._lost:
            lost, self._lost = self._lost, []
            raise PositionLostError(f"topic {self._topic.name!r}: {'; '.join(lost)}")
        mailbox = self.mailbox
        if limit >= len(mailbox):
            taken: Sequence[Delivery] = tuple(mailbox)
            mailbox.clear()
        else:
            pop = mailbox.popleft
            taken = [pop() for _ in range(limit)]
        topic = self._topic
        if topic.waiters:
            topic.serve_waiters()
        if len(topic.logs) == 1:
            return (self._batch(0, taken, taken[-1].offset + 1),)
        sorted_out: dict[int, list[Delivery]] = {}
        for delivery in taken:
            sorted_out.setdefault(delivery.partition, []).append(delivery)
        return [self._batch(p, found, found[-1].offset + 1) for p, found in sorted_out.items()]

    def _batch(self, partition: int, deliveries: Sequence[Delivery], next_offset: int) -> Batch:
        self.delivered[partition] = next_offset
        if self.group is not None:
            kept = self._topic.groups[self.group].attempts
            if kept:
                attempts = {
                    d.offset: kept[partition, d.offset] for d in deliveries if (partition, d.offset) in kept
                }
                return Batch(partition, deliveries, next_offset, attempts)
        return Batch(partition, deliveries, next_offset)

    def caught_up(self) -> bool:
        return not self.mailbox

    async def commit(self, positions: Mapping[int, int]) -> None:
        if self.group is None:
            return
        topic = self._topic
        group = topic.groups.get(self.group)
        if group is None:
            return
        fenced = []
        for partition, offset in positions.items():
            if partition not in self.delivered:
                fenced.append(partition)
                continue
            if offset > group.committed.get(partition, -1):
                group.committed[partition] = offset
                log = topic.logs[partition]
                # Not at every commit: each looks at every group. When all is done, or when it has grown.
                if offset == log.next_offset or log.next_offset >= log.trim_at or topic.waiters:
                    topic.trim(log)
        if fenced:
            raise FencedError(f"partitions {fenced} of topic {topic.name!r} belong to another member now")

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """A log: not used."""

    async def release(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """A log: not used."""

    async def save_attempts(self, delivery: Delivery, attempts: Attempts | None) -> None:
        group = self._topic.groups.get(self.group) if self.group else None
        if group is None:
            return
        if attempts is None:
            group.attempts.pop((delivery.partition, delivery.offset), None)
        else:
            group.attempts[delivery.partition, delivery.offset] = attempts

    async def close(self) -> None:
        if self.closed:
            return
        topic = self._topic
        group = topic.groups.get(self.group) if self.group is not None else None
        if group is not None:
            for log in topic.logs:
                if log.partition in self.delivered:
                    group.committed[log.partition] = group.effective(log)
        self.shut()
        if self in topic.streams:
            topic.streams.remove(self)
        topic.forget_routes()
        if group is not None and self in group.members:
            group.members.remove(self)
            await group.rebalance(topic)
        topic.serve_waiters()

    def shut(self) -> None:
        """No more deliveries."""
        self.closed = True
        self.delivered.clear()
        self.mailbox.clear()
        self._topic.forget_routes()
        self.wake()

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


_position = tuple.__new__  # a named tuple's own constructor costs twice as much


def _settings(config: TopicConfig) -> tuple[Any, ...]:
    return (
        config.partitions,
        config.retention_seconds,
        config.retention_bytes,
        config.retention_records,
    )


class _Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_bus_backend(self, options: Mapping[str, Any], clock: Clock) -> BusBackend:
        return MemoryBackend(parse_options(MemoryOptions, options, "bus 'memory'"), clock)


plugin = _Plugin()
