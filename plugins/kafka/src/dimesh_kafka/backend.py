"""The bus backend on Apache Kafka."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from typing import Final, Literal
from uuid import uuid4

from dimesh.capabilities import Capabilities, Capability, Support
from dimesh.clock import Clock
from dimesh.errors import BusClosedError, BusError, NotOfferedError, TopicNotFoundError
from dimesh.events.names import show
from dimesh.spi.bus import (
    DEFAULT_TIMEOUT,
    Attempts,
    Delivery,
    Finding,
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
from dimesh_kafka.admin import Admin
from dimesh_kafka.delays import Delays
from dimesh_kafka.frames import Frames, OpenRegistry
from dimesh_kafka.options import KafkaOptions
from dimesh_kafka.reader import ByTopic
from dimesh_kafka.services import Services
from dimesh_kafka.stream import KafkaStream, log_missing_positions
from dimesh_kafka.transactions import Transactor

log = logging.getLogger("dimesh.bus.kafka")

_WATCH_INTERVAL: Final = 2.0
"""Seconds between two listings of the topics."""


class KafkaBackend:
    """See :class:`dimesh.spi.bus.BusBackend`."""

    name = "kafka"
    family: Literal["log", "queue"] = "log"
    commit_interval = 1.0
    commit_every = 5_000

    def __init__(self, options: KafkaOptions, clock: Clock, registry: OpenRegistry | None = None) -> None:
        self.options = options
        self.capabilities = _capabilities(options)
        self.services = services = Services(options, clock, Frames(options.wire, registry))
        self.clients = services.clients
        self._streams: set[KafkaStream] = set()
        self._transactor = Transactor(lambda: self.clients.producer(f"{options.client_id}-{uuid4().hex}"))
        self._delays = Delays(services)
        self._watch: asyncio.Task[None] | None = None
        self._opened = False
        self._closed = False

    @property
    def admin(self) -> Admin:
        """The administration of topics and groups; there is one once the backend is open."""
        return self.services.admin

    # -- life --------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect."""
        await self.services.open()
        self._opened = True
        self._watch = asyncio.create_task(self._watch_topics(), name="dimesh-kafka-watch")

    async def close(self) -> None:
        """Send what is queued, and disconnect."""
        if self._closed or not self._opened:
            self._closed = True
            return
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        for stream in tuple(self._streams):
            await stream.close()
        await self._delays.close()
        await self._transactor.close()
        await self.services.close()

    async def _watch_topics(self) -> None:
        """Notice topics that others create, grow or delete."""
        while True:
            await asyncio.sleep(_WATCH_INTERVAL)
            try:
                found = await self.admin.partitions()
                read = {stream.topic for stream in self._streams}
                self.services.observe(found, read)
                if read and self.services.internal.delayed in found:
                    self._delays.watch()
            except BusError as error:
                log.warning("cannot list the topics: %s", error)
            except Exception:  # nobody expected it, but without this task new partitions would never be read
                log.exception("watching the topics failed")

    # -- publishing --------------------------------------------------------------------------------

    async def append(
        self,
        topic: str,
        records: Sequence[Record],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        state: Mapping[str, bytes] | None = None,
    ) -> Sequence[Position | None]:
        """Publish the records; return when all in-sync replicas have them."""
        if self._closed:
            raise BusClosedError("the bus is closed")
        if self.services.frames.active:
            await self.services.frames.prepare(topic, records)
        publisher = self.services.publisher
        if not publisher.partitions(topic):
            await self.services.ensure(topic)
        if state is not None:
            return await self._append_with_state(topic, records, state)
        for record in records:
            if record.deliver_at is not None:
                return await self._append_delayed(topic, records, timeout)
        return await publisher.append(topic, records, timeout)

    def check_records(self, topic: str, records: Sequence[Record]) -> None:
        """Refuse records that are larger than the option ``max_request_size`` allows."""
        self.services.publisher.check(records)

    async def _append_delayed(
        self, topic: str, records: Sequence[Record], timeout: float
    ) -> Sequence[Position | None]:
        now = self.services.clock.time()
        late = [r for r in records if r.deliver_at is not None and r.deliver_at > now]
        at_once = [n for n, r in enumerate(records) if r.deliver_at is None or r.deliver_at <= now]
        positions: list[Position | None] = [None] * len(records)
        if late:
            await self._delays.hold(topic, late, timeout)
        if at_once:
            found = await self.services.publisher.append(topic, [records[n] for n in at_once], timeout)
            for n, position in zip(at_once, found, strict=True):
                positions[n] = position
        return positions

    async def _append_with_state(
        self, topic: str, records: Sequence[Record], state: Mapping[str, bytes]
    ) -> Sequence[Position | None]:
        services = self.services
        now = services.clock.time()
        if any(r.deliver_at is not None and r.deliver_at > now for r in records):
            raise NotOfferedError("a record with state cannot be delayed on Kafka; nothing was published")
        await services.ensure_internal(services.internal.state)
        positions: list[Position | None] = []
        # What is in flight is sent first: the order of a key is the order of the calls.
        async with services.publisher.held(topic):
            messages, _ = services.publisher.prepared(topic, records)
            async with self._transactor.transaction(f"publish to {topic} with state") as producer:
                sent = [
                    await producer.send(topic, value, key, number, headers=headers)
                    for number, key, value, headers, _ in messages
                ]
                for name, value in state.items():
                    await producer.send(services.internal.state, value, name.encode("utf-8"), 0)
                await producer.flush()
                for one in sent:
                    found = await one
                    positions.append(Position(found.partition, found.offset))
        for position in positions:
            assert position is not None
            services.note_end(topic, position.partition, position.offset + 1)
        return positions

    async def load_state(self, key: str) -> bytes | None:
        """Return the state that was stored last under ``key``."""
        table = await self.services.tables.get(self.services.internal.state)
        return None if table is None else (await table.current()).get(key.encode("utf-8"))

    # -- consuming ---------------------------------------------------------------------------------

    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> KafkaStream:
        """Open a stream."""
        if self._closed:
            raise BusClosedError("the bus is closed")
        topic = request.topic
        partitions = await self.services.ensure(topic)
        numbers = list(range(partitions))
        if await self.services.partitions_of(self.services.internal.delayed):
            self._delays.watch()
        stream = KafkaStream(self.services, request, listener, self._streams.discard)
        if request.group is None:
            await stream.open_alone(await self.services.reader.resolve(topic, numbers, request.start))
        else:
            await stream.open_member(await self._set_first_positions(request, numbers))
        self._streams.add(stream)
        return stream

    async def _set_first_positions(self, request: Subscribe, numbers: Sequence[int]) -> int:
        """Give a new group a position on every partition before anybody joins it.

        A group that has positions on some partitions but not on all is therefore not new, and reads the others from their
        beginning. Return the number of partitions up to the last one with a position.
        """
        topic, group = request.topic, request.group
        assert group is not None
        committed = await self.admin.committed(topic, group)
        fresh = [number for number in numbers if request.reset or number not in committed]
        if not fresh:
            return len(numbers)
        is_new = request.reset or not committed
        begin = await self.services.reader.resolve(
            topic, fresh, request.start if is_new else StartAt.EARLIEST
        )
        before = max(committed, default=-1) + 1
        if not await self.admin.move(topic, group, begin):
            # The group has members: they have set its positions, and a reset would move them while they read.
            return before
        if not is_new:
            log_missing_positions(group, topic, fresh, before)
        elif not request.reset:
            log.info(
                "group %s of topic %s has no position and starts at %s; if the group existed before, the broker has "
                "forgotten its position (offsets.retention.minutes)",
                group,
                topic,
                request.start.value if isinstance(request.start, StartAt) else request.start,
            )
        return len(numbers)

    async def read(
        self, topic: str, start: Mapping[int, int] | StartAt | datetime, limit: int
    ) -> Sequence[Delivery]:
        """Read records without a group."""
        numbers = list(range(await self._known(topic)))
        if isinstance(start, Mapping):
            offsets = {number: offset for number, offset in start.items() if number in numbers}
        else:
            offsets = await self.services.reader.resolve(topic, numbers, start)
        return await self.services.reader.read(topic, offsets, limit)

    async def _known(self, topic: str) -> int:
        partitions = (await self.admin.partitions()).get(topic, 0)
        if not partitions:
            raise TopicNotFoundError(f"no topic is named {show(topic)}; 'dimesh topics' lists them")
        return partitions

    # -- administration ----------------------------------------------------------------------------

    async def create_topic(self, name: str, config: TopicConfig) -> TopicInfo:
        """Create or change a topic."""
        have = await self.services.partitions_of(name)
        if have:
            await self.admin.change(name, have, config)
            have = max(have, config.partitions or 0)
            self.services.publisher.learn(name, have)
        else:
            have = await self.admin.create(name, config)
            self.services.learn(name, have)
        return await self._info(name, have)

    async def _info(self, name: str, partitions: int) -> TopicInfo:
        oldest, ends = await self.services.reader.bounds(name, list(range(partitions)))
        return _info(name, partitions, oldest, ends, await self.admin.settings(name))

    async def delete_topic(self, name: str) -> None:
        """Delete a topic and end its streams."""
        await self.admin.delete(name)
        self.services.forget(name)
        for stream in tuple(self._streams):
            if stream.topic == name:
                await stream.end()

    async def topics(self) -> Sequence[TopicInfo]:
        """Return all topics, sorted by name."""
        there = await self.admin.partitions()
        found, oldest, ends = await self._bounds(
            {name: number for name, number in sorted(there.items()) if name not in self.services.internal}
        )
        settings = await self.admin.all_settings(found)
        return [
            _info(name, number, oldest[name], ends[name], settings[name])
            for name, number in found.items()
            if name in settings
        ]

    async def groups(self) -> Sequence[GroupInfo]:
        """Return all groups of the mesh."""
        found = await self.admin.partitions()
        groups = [
            (topic, group)
            for topic, group in await self.admin.groups()
            if topic in found and topic not in self.services.internal
        ]
        found, oldest, ends = await self._bounds({topic: found[topic] for topic, _ in groups})
        known = [(topic, group) for topic, group in groups if topic in found]
        states = await self.admin.states(known)
        infos = []
        for (topic, group), (committed, owners) in zip(known, states, strict=True):
            for number, end in ends[topic].items():
                at = committed.get(number)
                lag = end - max(at if at is not None else 0, oldest[topic][number])
                infos.append(GroupInfo(topic, group, number, at, end, max(lag, 0), owners.get(number)))
        return infos

    async def _bounds(self, topics: Mapping[str, int]) -> tuple[dict[str, int], ByTopic, ByTopic]:
        """Return the topics that still exist with their numbers of partitions, and the bounds of those."""
        found = dict(topics)
        while True:
            try:
                oldest, ends = await self.services.reader.all_bounds({t: range(n) for t, n in found.items()})
                return found, oldest, ends
            except BusError:
                there = await self.admin.partitions()
                left = {topic: number for topic, number in found.items() if topic in there}
                if len(left) == len(found):
                    raise
                found = left  # the others were deleted meanwhile

    async def read_attempts(
        self, topic: str, group: str, positions: Collection[Position]
    ) -> Mapping[Position, Attempts]:
        """See :class:`dimesh.spi.bus.KeptAttempts`."""
        kept = await self.services.attempts.of(group, topic, {position.partition for position in positions})
        return {
            position: kept[position.partition][position.offset]
            for position in positions
            if position.offset in kept.get(position.partition, ())
        }

    async def seek_group(self, topic: str, group: str, start: Start) -> Mapping[int, int]:
        """Move a group that has no members."""
        numbers = list(range(await self._known(topic)))
        offsets = await self.services.reader.resolve(topic, numbers, start)
        if not await self.admin.is_empty(topic, group) or not await self.admin.move(topic, group, offsets):
            raise BusError(f"group {group!r} of topic {topic!r} has active members: stop them first")
        await self.services.attempts.clear(group, topic, numbers)
        return offsets

    # -- doctor ------------------------------------------------------------------------------------

    async def check(self) -> AsyncIterator[Finding]:
        """See :class:`dimesh.spi.bus.SelfCheck`."""
        from dimesh_kafka.doctor import examine

        async for finding in examine(
            self, self.admin, self.services.reader, self._transactor, self.options, self.services.clock
        ):
            yield finding


def _info(
    name: str,
    partitions: int,
    oldest: Mapping[int, int],
    ends: Mapping[int, int],
    settings: Mapping[str, tuple[str, bool]],
) -> TopicInfo:
    def own(setting: str) -> int | None:
        value = settings.get(setting)
        return int(value[0]) if value is not None and value[1] and value[0] != "-1" else None

    age = own("retention.ms")
    return TopicInfo(
        name,
        partitions,
        sum(ends[n] - oldest[n] for n in ends),
        None,
        oldest,
        ends,
        TopicConfig(
            partitions=partitions,
            retention_seconds=None if age is None else age / 1000,
            retention_bytes=own("retention.bytes"),
        ),
    )


def _capabilities(options: KafkaOptions) -> Capabilities:
    by_key = options.partition_by == "key"
    notes = {
        Capability.POWER_SAFE: "brokers flush late: not all replicas may lose power at once",
        Capability.COUNTED_LAG: "by offsets, some of which are markers of transactions",
    }
    if not by_key:
        notes[Capability.KEY_ORDER] = "where all events of a key agree in what 'partition_by' names"
    return Capabilities(
        Capability.DURABLE,
        Capability.REPLAY,
        Capability.LOOK_BACK,
        Capability.START_BY_TIME,
        Capability.GROUPS,
        Capability.MULTI_PROCESS,
        Capability.DURABLE_ATTEMPTS,
        Capability.DELAYED_DELIVERY,
        Capability.ATOMIC_STATE,
        Capability.TRANSACTIONS,
        Capability.COUNTED_LAG,
        Capability.SEGMENT_RETENTION,
        Capability.TOPIC_ADMIN,
        key_order=Support.FULL if by_key else Support.PARTIAL,
        power_safe=Support.PARTIAL,
        notes=notes,
    )
