"""The bus backend in memory: the reference for all other backends, for tests and single processes.

A topic is a log for each partition. Every open stream has a mailbox. An append puts the record into the mailboxes of the
streams that want it, which are found by the record's type, pillar and priority in a table that is filled as combinations
occur. The log itself keeps only the records that some group has not committed, and the configured history.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from typing import Literal

from dimesh.backends.bus.memory.group import Group
from dimesh.backends.bus.memory.options import MAX_PARTITIONS, MemoryOptions
from dimesh.backends.bus.memory.stream import MemoryStream
from dimesh.backends.bus.memory.topic import Topic
from dimesh.capabilities import Capabilities, Capability
from dimesh.clock import CLOCK_LOOK, Clock, Handle
from dimesh.errors import (
    BackpressureError,
    BusClosedError,
    BusError,
    ConfigurationError,
    NotOfferedError,
    RefusedError,
    TopicNotFoundError,
)
from dimesh.events.current import ids_being_handled
from dimesh.events.names import show
from dimesh.spi.bus import (
    DEFAULT_TIMEOUT,
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

_position = tuple.__new__  # a named tuple's own constructor costs twice as much


class MemoryBackend:
    """See :class:`dimesh.spi.bus.BusBackend`."""

    name = "memory"
    family: Literal["log", "queue"] = "log"
    commit_interval = 0.2
    commit_every = 256

    def __init__(self, options: MemoryOptions, clock: Clock) -> None:
        if not 1 <= options.partitions <= MAX_PARTITIONS:
            raise ConfigurationError(f"partitions must be 1 to {MAX_PARTITIONS}", subject="bus 'memory'")
        if options.capacity < 1 or options.history < 0:
            raise ConfigurationError(
                "capacity must be 1 or more, history not negative", subject="bus 'memory'"
            )
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
        """Do nothing: there is nothing to connect to."""

    async def close(self) -> None:
        """End all streams and remove all topics."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for topic in self._topics.values():
            for stream in tuple(topic.streams):
                stream.shut()
            topic.queue.close()
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
        """Put the records into the mailbox of every stream that wants them."""
        if state is not None:
            raise NotOfferedError("the memory bus keeps no state: use the sqlite bus")
        target = self._topics.get(topic) or self._make(topic)
        record = records[0] if len(records) == 1 else None
        if record is not None and record.deliver_at is None and not target.waiters:
            # The usual case, inlined: one record, to be delivered now, and there is room.
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
        if target.waiters or not target.has_room(records, target.capacity):
            await self._wait_for_room(target, records, timeout)
        return self._take(target, records)

    def _take(self, topic: Topic, records: Sequence[Record]) -> list[Position | None]:
        now = self._time()
        positions: list[Position | None] = []
        keeps = topic.keeps
        log = topic.logs[0]
        for record in records:
            if record.deliver_at is not None and record.deliver_at > now:
                self._hold_back(record.deliver_at, topic.name, record)
                positions.append(None)
                continue
            if topic.partitions > 1:
                log = topic.log_of(record.key)
            routes = log.routes.get((record.event_type, record.pillar, record.priority))
            if routes is None:
                routes = topic.route(log, record)
            offset = log.next_offset
            log.next_offset = offset + 1
            delivery = Delivery(record, log.partition, offset, now)
            if keeps:
                log.records.append(delivery)
                if offset >= log.trim_at:
                    topic.trim(log)
            for stream in routes:
                stream.mailbox.append(delivery)
                if stream.waiter is not None:
                    stream.wake()
            positions.append(_position(Position, (log.partition, offset)))
        return positions

    async def _wait_for_room(self, topic: Topic, records: Sequence[Record], timeout: float) -> None:
        own = ids_being_handled()
        if not own:
            capacity = topic.capacity
            found = await topic.queue.wait(lambda: topic.has_room(records, capacity), timeout)
        else:
            # A handler has as much room again, ahead of all others: the room that these wait for may depend on it.
            capacity = 2 * topic.capacity
            found = (
                not (topic.waiters and topic.waiters[0].first) and topic.has_room(records, capacity)
            ) or await topic.queue.wait(
                lambda: topic.has_room(records, capacity) or topic.is_held_up_by(own), timeout, first=True
            )
            if found and not topic.has_room(records, capacity):
                raise RefusedError(
                    f"topic {topic.name!r} is full, and no room comes free there until the handler that publishes has "
                    "handled its own event: it would wait for itself. Nothing was published. Publish less from one call, or "
                    "to another topic, or raise the option 'capacity'"
                )
        if found:
            return  # the room is used before anything else runs
        if self._closed:
            raise BusClosedError("the bus is closed")
        if topic.queue.closed:
            raise TopicNotFoundError(f"topic {topic.name!r} was deleted; nothing was published")
        raise BackpressureError(
            f"topic {topic.name!r} is full: {topic.why_full(records)}. No room came free within {timeout:g} s and "
            "nothing was published. Handle faster (concurrency, batches), raise the option 'capacity', or use the "
            "sqlite bus"
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
            # Even if that exceeds the bound: the record was accepted when it was published.
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
        try:
            await topic.rebalance(group)
        except BaseException:  # cancelled: a member that nobody reads would keep its partitions
            await stream.close()
            raise
        return stream

    async def read(
        self, topic: str, start: Mapping[int, int] | StartAt | datetime, limit: int
    ) -> Sequence[Delivery]:
        """Return records from the history."""
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
        """Return the kept records of a topic, in the order in which they were appended."""
        found = self._topics.get(topic)
        if found is None:
            return []
        last = self.options.history
        kept = [d for log in found.logs for d in tuple(log.records)[-last:]] if last else []
        kept.sort(key=lambda d: d.timestamp)
        return kept

    async def load_state(self, key: str) -> bytes | None:
        """Raise NotOfferedError: the memory bus keeps no state."""
        raise NotOfferedError("the memory bus keeps no state: use the sqlite bus")

    # -- administration --------------------------------------------------------------------------

    async def create_topic(self, name: str, config: TopicConfig) -> TopicInfo:
        """Create a topic or change its settings."""
        topic = self._topics.get(name)
        if topic is None:
            topic = self._make(name, config)
        else:
            if config.partitions is not None and config.partitions < topic.partitions:
                raise ConfigurationError(
                    f"topic {name!r} has {topic.partitions} partitions; their number can only grow"
                )
            if config.partitions is not None and config.partitions > MAX_PARTITIONS:
                raise ConfigurationError(f"topic {name!r} can have at most {MAX_PARTITIONS} partitions")
            await topic.configure(config)
        return topic.info()

    async def delete_topic(self, name: str) -> None:
        """Remove a topic; its streams end."""
        topic = self._find(name)
        del self._topics[name]
        for stream in tuple(topic.streams):
            stream.shut()
        topic.queue.close()
        self._delayed = [held for held in self._delayed if held[2] != name]
        heapq.heapify(self._delayed)

    async def topics(self) -> Sequence[TopicInfo]:
        """Describe all topics, by name."""
        return [self._topics[name].info() for name in sorted(self._topics)]

    async def groups(self) -> Sequence[GroupInfo]:
        """Describe all groups, by topic, name and partition."""
        return [
            info
            for name in sorted(self._topics)
            for group in sorted(self._topics[name].groups.values(), key=lambda g: g.name)
            for info in group.infos(name, self._topics[name].logs)
        ]

    async def read_attempts(
        self, topic: str, group: str, positions: Collection[Position]
    ) -> Mapping[Position, Attempts]:
        """See :class:`dimesh.spi.bus.KeptAttempts`."""
        known = self._find(topic).groups.get(group)
        return {} if known is None else {p: known.attempts[p] for p in positions if p in known.attempts}

    async def held_back(self) -> AsyncIterator[tuple[str, Record]]:
        """See :class:`dimesh.spi.bus.HeldBackRecords`."""
        for _, _, name, record in sorted(self._delayed, key=lambda held: held[:2]):
            yield name, record

    async def seek_group(self, topic: str, group: str, start: Start) -> Mapping[int, int]:
        """Move the position of a group that has no members."""
        found = self._find(topic)
        known = found.groups.get(group)
        if known is None:
            known = found.groups[group] = Group(group)
            found.update_keeps()
        if known.members:
            raise BusError(f"group {group!r} of topic {topic!r} has active members: stop them first")
        known.committed = dict(found.resolve(start))
        known.attempts.clear()
        return dict(known.committed)

    def _make(self, name: str, config: TopicConfig | None = None) -> Topic:
        if self._closed:
            raise BusClosedError("the bus is closed")
        partitions = (config.partitions if config else None) or self.options.partitions
        if not 1 <= partitions <= MAX_PARTITIONS:
            raise ConfigurationError(f"partitions must be 1 to {MAX_PARTITIONS}, not {partitions}")
        topic = self._topics[name] = Topic(name, partitions, self.options, self._clock, config)
        return topic

    def _find(self, name: str) -> Topic:
        topic = self._topics.get(name)
        if topic is None:
            raise TopicNotFoundError(f"no topic is named {show(name)}; 'dimesh topics' lists them")
        return topic
