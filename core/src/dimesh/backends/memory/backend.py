"""The bus backend in memory: the reference for all others, and the one for tests and single processes.

A topic is a log for each partition. Every open stream has a mailbox; an append puts the record into the mailboxes
that want it, found by the record's type, pillar and priority in a table that is filled as combinations occur. The
log itself keeps only what a group has not committed, and the configured history.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from dimesh.backends.memory.group import Group
from dimesh.backends.memory.options import MAX_PARTITIONS, MemoryOptions
from dimesh.backends.memory.stream import MemoryStream
from dimesh.backends.memory.topic import Log, Topic
from dimesh.capabilities import Capabilities, Capability
from dimesh.clock import CLOCK_LOOK, Clock, Handle
from dimesh.errors import (
    BackpressureError,
    BusClosedError,
    BusError,
    ConfigurationError,
    NotOfferedError,
    TopicNotFoundError,
)
from dimesh.events.names import show
from dimesh.spi.bus import (
    DEFAULT_TIMEOUT,
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

_position = tuple.__new__  # a named tuple's own constructor costs twice as much


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
            Capability.COUNTED_LAG,
            Capability.RETENTION,
            Capability.TOPIC_ADMIN,
            Capability.REPLAY,
            Capability.LOOK_BACK,
            Capability.START_BY_TIME,
            notes={Capability.REPLAY: "as far back as the option 'history' keeps"},
        )
        self._clock = clock
        self._time = clock.time
        self._topics: dict[str, Topic] = {}
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

    def _take(self, topic: Topic, records: Sequence[Record]) -> list[Position | None]:
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
        self, topic: Topic, log: Log, record: Record, routes: Sequence[MemoryStream], now: float
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

    async def _wait_for_room(self, topic: Topic, records: Sequence[Record], timeout: float) -> None:
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
            self._timer = self._clock.call_later(min(wait, CLOCK_LOOK), self._release_due)

    def _release_due(self) -> None:
        self._timer = None
        now = self._time()
        while self._delayed and self._delayed[0][0] <= now:
            _, _, name, record = heapq.heappop(self._delayed)
            # Past the bound if need be: it was accepted long ago.
            self._take(self._topics.get(name) or self._make(name), (record,))
        self._arm()

    # -- consuming -------------------------------------------------------------------------------

    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> MemoryStream:
        """Open a stream; members of a group share the partitions."""
        topic = self._topics.get(request.topic) or self._make(request.topic)
        stream = MemoryStream(topic, request, listener)
        if request.group is None:
            first = topic.resolve(request.start)
            await listener.assigned(first)
            stream.take_over(topic.resolve(request.start) if request.start is StartAt.LATEST else first)
            topic.add_stream(stream)
            return stream
        group = topic.groups.get(request.group)
        if group is None:
            group = topic.groups[request.group] = Group(request.group)
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
        for log in found.logs:
            found.trim(log)
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
            known = found.groups[group] = Group(group)
            found.update_keeps()
        if known.members:
            raise BusError(f"group {group!r} of topic {topic!r} has active members: stop them first")
        known.committed = dict(found.resolve(start))
        return dict(known.committed)

    def _make(self, name: str, config: TopicConfig | None = None) -> Topic:
        if self._closed:
            raise BusClosedError("the bus is closed")
        partitions = (config.partitions if config else None) or self.options.partitions
        if not 1 <= partitions <= MAX_PARTITIONS:
            raise ConfigurationError(f"partitions must be 1 to {MAX_PARTITIONS}, not {partitions}")
        topic = self._topics[name] = Topic(name, partitions, self.options, self._time, config)
        return topic

    def _find(self, name: str) -> Topic:
        topic = self._topics.get(name)
        if topic is None:
            raise TopicNotFoundError(f"no topic is named {show(name)}; 'dimesh topics' lists them")
        return topic
