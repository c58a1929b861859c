"""The bus backend on Apache Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Final, Literal
from uuid import uuid4

from aiokafka.errors import KafkaError

from dimesh.capabilities import Capabilities, Capability, Support
from dimesh.clock import Clock
from dimesh.errors import BusClosedError, BusError, DimeshError, NotOfferedError, TopicNotFoundError
from dimesh.events.names import show
from dimesh.spi.bus import (
    DEFAULT_TIMEOUT,
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
from dimesh_kafka.attempts import AttemptsTable
from dimesh_kafka.clients import Clients
from dimesh_kafka.delays import Delays
from dimesh_kafka.failures import connection_error
from dimesh_kafka.options import KafkaOptions
from dimesh_kafka.publisher import Publisher
from dimesh_kafka.reader import Reader
from dimesh_kafka.stream import KafkaStream, tell_begun
from dimesh_kafka.tables import Tables
from dimesh_kafka.transactions import Transactor

log = logging.getLogger("dimesh.bus.kafka")

_LOOK: Final = 2.0
"""Seconds between two looks at which topics there are."""


class KafkaBackend:
    """See :class:`dimesh.spi.bus.BusBackend`."""

    name = "kafka"
    family: Literal["log", "queue"] = "log"
    commit_interval = 1.0
    commit_every = 5_000

    publisher: Publisher
    attempts: AttemptsTable

    def __init__(self, options: KafkaOptions, clock: Clock) -> None:
        self.options = options
        self.clock = clock
        self.clients = Clients(options)
        by_key = options.partition_by == "key"
        notes = {
            Capability.POWER_SAFE: "brokers flush late: what counts is that not all copies lose power at once",
            Capability.COUNTED_LAG: "by offsets, of which markers of transactions take some",
        }
        if not by_key:
            notes[Capability.KEY_ORDER] = "where all events of a key agree in what 'partition_by' names"
        self.capabilities = Capabilities(
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
        self.streams: set[KafkaStream] = set()
        self._ends: dict[tuple[str, int], int] = {}
        self._gone: set[str] = set()
        self._delayed = f"{options.internal}.delayed"
        self._attempts = f"{options.internal}.attempts"
        self._state = f"{options.internal}.state"
        self._reader = Reader(self.clients.consumer, options.request_timeout)
        self._tables = Tables(
            self._partitions_of, self.ensure_internal, self.clients.consumer, options.request_timeout
        )
        self.transactor = Transactor(lambda: self.clients.producer(f"{options.client_id}-{uuid4().hex}"))
        self._delays = Delays(
            self, self._delayed, lambda: self.clients.producer(f"{options.internal}-delayed-records")
        )
        self._ensuring: dict[str, asyncio.Lock] = {}
        self._watch: asyncio.Task[None] | None = None
        self._opened = False
        self._closed = False

    # -- life --------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect."""
        self.publisher = Publisher(self.options, self.clients.producer, self.clock, self.written)
        self.attempts = AttemptsTable(self._attempts, self._tables, self._put)
        client = self.clients.admin()
        self.admin = Admin(self.options, client, self.clients.consumer)
        try:
            await client.start()
            await self.publisher.open()
        except (KafkaError, OSError, DimeshError) as error:
            await client.close()
            if isinstance(error, DimeshError):
                raise
            why = await self.clients.trouble() or error
            if isinstance(why, DimeshError):
                raise why from error
            raise connection_error(why, self.options.bootstrap_servers) from why
        except BaseException:
            await client.close()
            raise
        self._opened = True
        self._watch = asyncio.create_task(self._look_around(), name="dimesh-kafka-watch")

    async def close(self) -> None:
        """Send what waits, and disconnect."""
        if self._closed or not self._opened:
            self._closed = True
            return
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        for stream in tuple(self.streams):
            await stream.close()
        await self._delays.close()
        await self._tables.close()
        await self._reader.close()
        await self.transactor.close()
        await self.publisher.close()
        await self.admin.client.close()

    async def _look_around(self) -> None:
        """Topics come, grow and go by other hands."""
        missing: set[str] = set()
        while True:
            await asyncio.sleep(_LOOK)
            try:
                found = await self.admin.partitions()
            except BusError as error:
                log.warning("cannot list the topics: %s", error)
                continue
            for name, partitions in found.items():
                if self.publisher.partitions(name):
                    self.publisher.learn(name, partitions)
            read = {stream.topic for stream in self.streams}
            # Twice in a row: a broker that has just come back may not know all of them yet.
            self._gone |= missing & (read - found.keys())
            self._gone -= found.keys()
            missing = read - found.keys()
            for name in self._gone:
                self.publisher.forget(name)
            if read and self._delayed in found:
                self._delays.watch()

    # -- topics that must be there -------------------------------------------------------------------

    async def _partitions_of(self, topic: str) -> int:
        known = self.publisher.partitions(topic)
        return known or (await self.admin.partitions()).get(topic, 0)

    async def ensure(self, topic: str, config: TopicConfig | None = None, **settings: str) -> int:
        """Make a topic if it is missing; returns its number of partitions."""
        known = self.publisher.partitions(topic)
        if known:
            return known
        async with self._ensuring.setdefault(topic, asyncio.Lock()):
            partitions = await self._partitions_of(topic)
            if not partitions:
                partitions = await self.admin.create(topic, config or TopicConfig(), **settings)
            self._gone.discard(topic)
            self.publisher.learn(topic, partitions)
        self._ensuring.pop(topic, None)
        return partitions

    async def ensure_internal(self, topic: str, partitions: int = 1) -> int:
        """Make one of the bus's own topics, compacted."""
        return await self.ensure(
            topic,
            TopicConfig(partitions=partitions),
            **{"cleanup.policy": "compact", "segment.ms": "3600000"},
        )

    async def _put(self, topic: str, key: bytes, value: bytes | None) -> None:
        await self.ensure_internal(topic)
        await self.publisher.send(topic, [(0, key, value, [])], len(key) + len(value or b""), DEFAULT_TIMEOUT)

    def is_gone(self, topic: str) -> bool:
        """Whether a topic was deleted."""
        return topic in self._gone

    def written(self, topic: str, partition: int, end: int) -> None:
        """Note how far a partition goes, as far as this process knows."""
        if end > self._ends.get((topic, partition), 0):
            self._ends[topic, partition] = end

    def end_of(self, topic: str, partition: int) -> int:
        """See :meth:`written`."""
        return self._ends.get((topic, partition), 0)

    def transactor_of(self, name: str) -> Transactor:
        """For a partition that a group's member owns."""
        return Transactor(lambda: self.clients.producer(f"{self.options.internal}-{name}"))

    # -- publishing --------------------------------------------------------------------------------

    async def append(
        self,
        topic: str,
        records: Sequence[Record],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        state: Mapping[str, bytes] | None = None,
    ) -> Sequence[Position | None]:
        """Send the records; returns when all copies that must have them do."""
        if self._closed:
            raise BusClosedError("the bus is closed")
        if not self.publisher.partitions(topic):
            await self.ensure(topic)
        if state is not None:
            return await self._append_with_state(topic, records, state, timeout)
        for record in records:
            if record.deliver_at is not None:
                return await self._append_some(topic, records, timeout)
        return await self.publisher.append(topic, records, timeout)

    async def _append_some(
        self, topic: str, records: Sequence[Record], timeout: float
    ) -> Sequence[Position | None]:
        now = self.clock.time()
        late = [r for r in records if r.deliver_at is not None and r.deliver_at > now]
        at_once = [n for n, r in enumerate(records) if r.deliver_at is None or r.deliver_at <= now]
        positions: list[Position | None] = [None] * len(records)
        if late:
            await self._delays.hold(topic, late, timeout)
        if at_once:
            found = await self.publisher.append(topic, [records[n] for n in at_once], timeout)
            for n, position in zip(at_once, found, strict=True):
                positions[n] = position
        return positions

    async def _append_with_state(
        self, topic: str, records: Sequence[Record], state: Mapping[str, bytes], timeout: float
    ) -> Sequence[Position | None]:
        now = self.clock.time()
        if any(r.deliver_at is not None and r.deliver_at > now for r in records):
            raise NotOfferedError("a record with state cannot be delayed on Kafka; nothing was published")
        await self.ensure_internal(self._state)
        positions: list[Position | None] = []
        # What is under way comes first: the order of a key is that of the calls.
        async with self.publisher.held(topic):
            messages, _ = self.publisher.prepared(topic, records)
            async with self.transactor.transaction(f"publish to {topic} with state") as producer:
                sent = [
                    await producer.send(topic, value, key, number, headers=headers)
                    for number, key, value, headers in messages
                ]
                for name, kept in state.items():
                    await producer.send(self._state, kept, name.encode("utf-8"), 0)
                await producer.flush()
                for one in sent:
                    found = await one
                    positions.append(Position(found.partition, found.offset))
        for position in positions:
            assert position is not None
            self.written(topic, position.partition, position.offset + 1)
        return positions

    async def load_state(self, key: str) -> bytes | None:
        """What was stored last."""
        table = await self._tables.get(self._state)
        return None if table is None else (await table.current()).get(key.encode("utf-8"))

    # -- consuming ---------------------------------------------------------------------------------

    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> KafkaStream:
        """Open a stream."""
        if self._closed:
            raise BusClosedError("the bus is closed")
        topic = request.topic
        partitions = await self.ensure(topic)
        numbers = list(range(partitions))
        if await self._partitions_of(self._delayed):
            self._delays.watch()
        stream = KafkaStream(self, request, listener)
        if request.group is None:
            await stream.open_alone(await self._reader.resolve(topic, numbers, request.start))
        else:
            await stream.open_member(await self._found_group(request, numbers))
        self.streams.add(stream)
        return stream

    async def _found_group(self, request: Subscribe, numbers: Sequence[int]) -> int:
        """A group has a position on every partition from its first subscription on, before anybody joins. So one that has
        some, but not all, is not new, and reads the others from their beginning. Returns the number of partitions up to
        the last one with a position.
        """
        topic, group = request.topic, request.group
        assert group is not None
        committed = await self.admin.committed(topic, group)
        fresh = [number for number in numbers if request.reset or number not in committed]
        if not fresh:
            return len(numbers)
        is_new = request.reset or not committed
        begin = await self._reader.resolve(topic, fresh, request.start if is_new else StartAt.EARLIEST)
        before = max(committed, default=-1) + 1
        if not await self.admin.move(topic, group, begin):
            # It has members: they have seen to it, and a reset would take the ground from under them.
            return before
        if not is_new:
            tell_begun(group, topic, fresh, before)
        elif not request.reset:
            log.info(
                "group %s of topic %s has no position and begins at %s; if it was there before, the broker has forgotten "
                "it (offsets.retention.minutes)",
                group,
                topic,
                request.start.value if isinstance(request.start, StartAt) else request.start,
            )
        return len(numbers)

    async def read(
        self, topic: str, start: Mapping[int, int] | StartAt | datetime, limit: int
    ) -> Sequence[Delivery]:
        """Look at records."""
        numbers = list(range(await self._known(topic)))
        if isinstance(start, Mapping):
            offsets = {number: offset for number, offset in start.items() if number in numbers}
        else:
            offsets = await self._reader.resolve(topic, numbers, start)
        return await self._reader.read(topic, offsets, limit)

    async def _known(self, topic: str) -> int:
        partitions = (await self.admin.partitions()).get(topic, 0)
        if not partitions:
            raise TopicNotFoundError(f"no topic is named {show(topic)}; 'dimesh topics' lists them")
        return partitions

    # -- administration ----------------------------------------------------------------------------

    def _is_internal(self, name: str) -> bool:
        return name.startswith("__") or name in (self._delayed, self._attempts, self._state)

    async def create_topic(self, name: str, config: TopicConfig) -> TopicInfo:
        """Make or change a topic."""
        have = await self._partitions_of(name)
        if have:
            await self.admin.change(name, have, config)
            have = max(have, config.partitions or 0)
        else:
            have = await self.admin.create(name, config)
            self._gone.discard(name)
        self.publisher.learn(name, have)
        return await self._info(name, have)

    async def _info(self, name: str, partitions: int) -> TopicInfo:
        oldest, ends = await self._reader.bounds(name, list(range(partitions)))
        settings = await self.admin.settings(name)

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

    async def delete_topic(self, name: str) -> None:
        """Remove a topic; its streams end."""
        await self.admin.delete(name)
        self.publisher.forget(name)
        for key in [key for key in self._ends if key[0] == name]:
            del self._ends[key]
        for stream in tuple(self.streams):
            if stream.topic == name:
                await stream.end()

    async def topics(self) -> Sequence[TopicInfo]:
        """All topics, by name."""
        found = await self.admin.partitions()
        infos = []
        for name in sorted(found):
            if not self._is_internal(name):
                with contextlib.suppress(BusError):  # deleted in between
                    infos.append(await self._info(name, found[name]))
        return infos

    async def groups(self) -> Sequence[GroupInfo]:
        """All groups of the mesh."""
        found = await self.admin.partitions()
        groups = [
            (topic, group)
            for topic, group in await self.admin.groups()
            if topic in found and not self._is_internal(topic)
        ]
        ends: dict[str, dict[int, int]] = {}
        oldest: dict[str, dict[int, int]] = {}
        for topic in {topic for topic, _ in groups}:
            oldest[topic], ends[topic] = await self._reader.bounds(topic, list(range(found[topic])))
        infos = []
        for topic, group in groups:
            committed = await self.admin.committed(topic, group)
            owners = await self.admin.members(topic, group)
            for number, end in ends[topic].items():
                at = committed.get(number)
                lag = end - max(at if at is not None else 0, oldest[topic][number])
                infos.append(GroupInfo(topic, group, number, at, end, max(lag, 0), owners.get(number)))
        return infos

    async def seek_group(self, topic: str, group: str, start: Start) -> Mapping[int, int]:
        """Move a group that has no members."""
        numbers = list(range(await self._known(topic)))
        offsets = await self._reader.resolve(topic, numbers, start)
        if not await self.admin.is_empty(topic, group) or not await self.admin.move(topic, group, offsets):
            raise BusError(f"group {group!r} of topic {topic!r} has active members: stop them first")
        return offsets

    # -- doctor ------------------------------------------------------------------------------------

    async def check(self) -> AsyncIterator[Finding]:
        """See :class:`dimesh.spi.bus.SelfCheck`."""
        from dimesh_kafka.doctor import examine

        async for finding in examine(self, self.admin):
            yield finding
