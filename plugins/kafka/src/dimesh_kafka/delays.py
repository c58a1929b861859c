"""Delayed delivery: records wait in a compacted topic until they are due.

One process of the mesh has the topic (they form a group of which one member gets its only partition). It keeps what
waits in memory, in order of due time, and moves what is due: the record into its topic and the mark that it is gone
from here in one transaction, so that it is moved exactly once. The transactional id is the same in all processes, so
whoever takes over shuts out the one before.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from dimesh.clock import CLOCK_LOOK
from dimesh.errors import DimeshError
from dimesh.spi.bus import Record
from dimesh_kafka.clients import raise_trouble, stop_consumer
from dimesh_kafka.messages import from_message, to_headers
from dimesh_kafka.publisher import Message
from dimesh_kafka.transactions import Transactor

if TYPE_CHECKING:
    from dimesh_kafka.backend import KafkaBackend

log = logging.getLogger("dimesh.bus.kafka")

DUE: Final = "dimesh-due"
TOPIC: Final = "dimesh-topic"
_MOST_AT_ONCE: Final = 500


class Delays:
    """Holds records back, and moves them when this process has the topic."""

    def __init__(self, backend: KafkaBackend, topic: str, new_mover: Callable[[], Any]) -> None:
        self._backend = backend
        self._topic = topic
        self._transactor = Transactor(new_mover)
        self._task: asyncio.Task[None] | None = None
        self._heap: list[tuple[float, int, bytes]] = []
        self._held: dict[bytes, tuple[str, Any]] = {}
        self._tie = itertools.count()
        self._owner = False

    async def hold(self, topic: str, records: Sequence[Record], timeout: float) -> None:
        """Keep records until each one's ``deliver_at``.

        Raises:
            BackpressureError, PublishError: as for any publish.
        """
        await self._backend.ensure_internal(self._topic, partitions=1)
        messages: list[Message] = []
        size = 0
        for record in records:
            headers = [
                *to_headers(record),
                (DUE, repr(record.deliver_at).encode("ascii")),
                (TOPIC, topic.encode("ascii")),
                ("dimesh-key", record.key.encode("utf-8", "surrogatepass")),
            ]
            messages.append((0, uuid4().bytes, record.payload, headers))
            size += len(record.payload) + sum(len(value) for _, value in headers)
        await self._backend.publisher.send(self._topic, messages, size, timeout)
        self.watch()

    def watch(self) -> None:
        """Take part in moving what is due, from now on."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="dimesh-kafka-delays")

    async def close(self) -> None:
        """Leave it to the others."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            try:
                await self._take_part()
            except (KafkaError, DimeshError, OSError) as error:
                log.warning("delayed records are not moved by this process, again in 1 s: %s", error)
                await self._backend.clock.sleep(1.0)

    async def _take_part(self) -> None:
        options = self._backend.options
        consumer = self._backend.clients.consumer(
            group_id=f"{options.internal}@{self._topic}",
            session_timeout_ms=int(options.session_timeout * 1000),
            heartbeat_interval_ms=int(options.heartbeat_interval * 1000),
            max_poll_interval_ms=2**31 - 1,
            fetch_max_wait_ms=100,
        )
        try:
            consumer.subscribe([self._topic], listener=_Owner(self))
            await consumer.start()
            while True:
                if not self._owner:
                    await asyncio.sleep(0.05)
                    raise_trouble(consumer)
                    continue
                await self._own(consumer)
        finally:
            self._owner = False
            await self._transactor.close()
            await stop_consumer(consumer)

    def owner(self, owner: bool) -> None:
        """The partition was given to this process, or taken from it."""
        self._owner = owner

    async def _own(self, consumer: AIOKafkaConsumer) -> None:
        part = TopicPartition(self._topic, 0)
        self._heap.clear()
        self._held.clear()
        await self._transactor.open()  # shuts out the last owner: what it moved is moved, and visible
        end = (await consumer.end_offsets([part]))[part]
        await consumer.seek_to_beginning(part)
        while self._owner:
            complete = await consumer.position(part) >= end
            wait = self._until_due() if complete else CLOCK_LOOK
            found = await consumer.getmany(timeout_ms=int(min(wait, CLOCK_LOOK) * 1000) + 1)
            for message in found.get(part, ()):
                self._take(message)
            if complete and self._owner and self._until_due() <= 0:
                await self._move_due()

    def _take(self, message: Any) -> None:
        if message.value is None:
            self._held.pop(message.key, None)
            return
        headers = dict(message.headers)
        try:
            due, topic = float(headers[DUE]), headers[TOPIC].decode("ascii")
        except (KeyError, ValueError):
            log.error("a record of %s cannot be read and stays there: offset %d", self._topic, message.offset)
            return
        self._held[message.key] = (topic, message)
        heapq.heappush(self._heap, (due, next(self._tie), message.key))

    def _until_due(self) -> float:
        while self._heap and self._heap[0][2] not in self._held:
            heapq.heappop(self._heap)
        return max(self._heap[0][0] - self._backend.clock.time(), 0.0) if self._heap else CLOCK_LOOK

    async def _move_due(self) -> None:
        now = self._backend.clock.time()
        due: list[tuple[float, int, bytes]] = []
        while self._heap and self._heap[0][0] <= now and len(due) < _MOST_AT_ONCE:
            entry = heapq.heappop(self._heap)
            if entry[2] in self._held:
                due.append(entry)
        topics = {self._held[key][0] for _, _, key in due}
        for topic in topics:
            await self._backend.ensure(topic)
        ends: dict[tuple[str, int], int] = {}
        try:
            async with self._transactor.transaction("deliver delayed records") as producer:
                sent = []
                for _, _, key in due:
                    topic, message = self._held[key]
                    headers = [h for h in message.headers if h[0] not in (DUE, TOPIC, "dimesh-key")]
                    own = dict(message.headers).get("dimesh-key", b"")
                    record = from_message(own, message.value, headers)
                    number = self._backend.publisher.choose(record, self._backend.publisher.partitions(topic))
                    sent.append(await producer.send(topic, message.value, own, number, headers=headers))
                    await producer.send(self._topic, None, key, 0)
                await producer.flush()
                for one in sent:
                    at = await one
                    ends[at.topic, at.partition] = max(ends.get((at.topic, at.partition), 0), at.offset + 1)
        except BaseException:
            for entry in due:
                heapq.heappush(self._heap, entry)
            raise
        for _, _, key in due:
            self._held.pop(key, None)
        for (topic, number), end in ends.items():
            self._backend.written(topic, number, end)


class _Owner(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, delays: Delays) -> None:
        self._delays = delays

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self._delays.owner(False)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._delays.owner(bool(assigned))
