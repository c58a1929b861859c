"""A queue in memory: the smallest backend of that family, which must pass the kit while its mutants fail it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

from dimesh.capabilities import Capabilities, Capability
from dimesh.clock import SystemClock
from dimesh.errors import BusClosedError, BusError, FencedError, NotOfferedError, TopicNotFoundError
from dimesh.spi.bus import (
    Attempts,
    Batch,
    Delivery,
    Filter,
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

LEASE: Final = 0.3
CLOCK: Final = SystemClock()


class Held:
    """A record that a group has not acknowledged."""

    def __init__(self, record: Record, offset: int, timestamp: float) -> None:
        self.record = record
        self.offset = offset
        self.timestamp = timestamp
        self.token = 0
        """The number of the current lease; 0 without a lease."""
        self.until = 0.0
        """The time when the lease expires or, without a lease, when the delivery delay ends."""
        self.owner: QueueStream | None = None


class Group:
    """The pending records of a group, in order."""

    def __init__(self, wanted: Filter) -> None:
        self.wanted = wanted
        self.held: dict[int, Held] = {}
        self.streams: list[QueueStream] = []
        self.stolen: set[int] = set()
        """For a mutant: the offsets that were leased to two members."""

    def add(self, item: tuple[Record, int, float]) -> None:
        """Add a new record."""
        self.held[item[1]] = Held(*item)


class Topic:
    """A topic with all its records and groups."""

    def __init__(self) -> None:
        self.log: list[tuple[Record, int, float]] = []
        self.groups: dict[str, Group] = {}
        self.config = TopicConfig()


class QueueStream:
    """See :class:`dimesh.spi.bus.Stream`."""

    tokens = itertools.count(1)

    def __init__(self, group: Group) -> None:
        self.group = group
        self.closed = False
        group.streams.append(self)
        self._keeping = asyncio.create_task(self.extend())

    async def extend(self) -> None:
        """Extend the leases of the held records."""
        while True:
            await asyncio.sleep(LEASE / 3)
            for held in self.group.held.values():
                if held.owner is self:
                    held.until = CLOCK.monotonic() + LEASE

    def free(self) -> list[Held]:
        """Return the records that this stream may receive now; a record waits for earlier ones of its key."""
        now = CLOCK.monotonic()
        found: list[Held] = []
        blocked: set[str] = set()
        for held in self.group.held.values():
            key = held.record.key
            if held.owner is not None and held.until < now:
                held.owner, held.token = None, 0
            if held.owner is None and held.until <= now and key not in blocked:
                found.append(held)
            elif held.owner is not self:
                blocked.add(key)
        return found

    async def receive(self, limit: int) -> Sequence[Batch]:
        while not self.closed:
            found = self.free()[:limit]
            if found:
                return (Batch(0, [self.lease(held) for held in found], found[-1].offset + 1),)
            await asyncio.sleep(0.005)
        return ()

    def lease(self, held: Held) -> Delivery:
        """Lease a record and return its delivery."""
        held.owner, held.token = self, next(self.tokens)
        held.until = CLOCK.monotonic() + LEASE
        return Delivery(held.record, 0, held.offset, held.timestamp, held.token)

    def caught_up(self) -> bool:
        return not any(held.owner is None for held in self.group.held.values())

    async def commit(self, positions: Mapping[int, int]) -> None:
        pass

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        lapsed = 0
        for delivery in deliveries:
            held = self.group.held.get(delivery.offset)
            if held is None or held.token != delivery.token:
                lapsed += 1
            else:
                del self.group.held[delivery.offset]
        if lapsed:
            raise FencedError(f"{lapsed} leases had lapsed")

    async def release(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        for delivery in deliveries:
            held = self.group.held.get(delivery.offset)
            if held is not None and held.token == delivery.token:
                held.owner, held.token = None, 0
                held.until = CLOCK.monotonic() + delay

    async def save_attempts(self, delivery: Delivery, attempts: Attempts | None) -> None:
        pass

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._keeping.cancel()
            self.group.streams.remove(self)
            for held in self.group.held.values():
                if held.owner is self:
                    held.owner, held.token, held.until = None, 0, 0.0


class QueueBackend:
    """See :class:`dimesh.spi.bus.BusBackend`."""

    name = "queue"
    family: Literal["log", "queue"] = "queue"
    commit_interval = 0.02
    commit_every = 100
    stream_class = QueueStream
    capabilities = Capabilities(
        Capability.GROUPS,
        Capability.KEY_ORDER,
        Capability.LOOK_BACK,
        Capability.START_BY_TIME,
        Capability.AGE_RETENTION,
        Capability.TOPIC_ADMIN,
        Capability.NATIVE_LEASE,
        Capability.CONFIRMED_ACKS,
    )

    def __init__(self) -> None:
        self._topics: dict[str, Topic] = {}
        self._offsets = itertools.count(1)
        self._lone = itertools.count(1)
        self._open = False

    async def open(self) -> None:
        self._open = True

    async def close(self) -> None:
        self._open = False
        for topic in self._topics.values():
            for group in topic.groups.values():
                for stream in list(group.streams):
                    await stream.close()

    async def append(
        self, topic: str, records: Sequence[Record], *, timeout: float = 30.0, state: Any = None
    ) -> Sequence[Position | None]:
        if not self._open:
            raise BusClosedError("the bus is closed")
        if state or any(record.deliver_at is not None for record in records):
            raise NotOfferedError("neither state nor delay")
        found = self._topics.setdefault(topic, Topic())
        positions: list[Position | None] = []
        for record in records:
            item = (record, next(self._offsets), CLOCK.time())
            found.log.append(item)
            positions.append(Position(0, item[1]))
            for group in found.groups.values():
                group.add(item)
        return positions

    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> QueueStream:
        if isinstance(request.start, Mapping):
            raise NotOfferedError("a queue has no positions")
        topic = self._topics.setdefault(request.topic, Topic())
        name = f"g:{request.group}" if request.group is not None else f"lone:{next(self._lone)}"
        group = topic.groups.get(name)
        if group is None or request.reset:
            group = topic.groups[name] = group or Group(request.filter)
            self._seek(topic, group, request.start)
        return self.stream_class(group)

    @staticmethod
    def _seek(topic: Topic, group: Group, start: Start) -> None:
        group.held.clear()
        for item in topic.log:
            if start is StartAt.EARLIEST or (isinstance(start, datetime) and item[2] >= start.timestamp()):
                group.add(item)

    async def read(
        self, topic: str, start: Mapping[int, int] | StartAt | datetime, limit: int
    ) -> Sequence[Delivery]:
        log = self._known(topic).log
        if isinstance(start, Mapping):
            log = [item for item in log if item[1] >= start.get(0, 1 << 62)]
        elif isinstance(start, datetime):
            log = [item for item in log if item[2] >= start.timestamp()]
        return [Delivery(record, 0, offset, at) for record, offset, at in log[:limit]]

    def _known(self, topic: str) -> Topic:
        if topic not in self._topics:
            raise TopicNotFoundError(f"there is no topic {topic!r}")
        return self._topics[topic]

    async def load_state(self, key: str) -> bytes | None:
        raise NotOfferedError("no state")

    async def create_topic(self, name: str, config: TopicConfig) -> TopicInfo:
        if config.retention_records is not None or config.retention_bytes is not None:
            raise NotOfferedError("by age alone")
        found = self._topics.setdefault(name, Topic())
        found.config = config
        return TopicInfo(name, 1, None, None, config=config)

    async def delete_topic(self, name: str) -> None:
        for group in self._known(name).groups.values():
            group.held.clear()
            for stream in list(group.streams):
                await stream.close()
        del self._topics[name]

    async def topics(self) -> Sequence[TopicInfo]:
        return [TopicInfo(name, 1, None, None, config=t.config) for name, t in sorted(self._topics.items())]

    async def groups(self) -> Sequence[GroupInfo]:
        return [
            GroupInfo(name, group[2:], 0, None, 0, None, None)
            for name, topic in self._topics.items()
            for group in topic.groups
            if group.startswith("g:")
        ]

    async def seek_group(self, topic: str, group: str, start: Start) -> Mapping[int, int]:
        found = self._known(topic).groups[f"g:{group}"]
        if found.streams:
            raise BusError(f"{group} has active members; stop them first")
        self._seek(self._known(topic), found, start)
        return {}
