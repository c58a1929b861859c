"""Delayed delivery: records wait in a compacted topic until they are due.

One process of the mesh owns the topic: the processes form a group, and one member gets the topic's only partition. The
owner keeps the waiting records in memory, ordered by due time, and moves those that are due. One transaction publishes a
record to its topic and deletes it from this one, so that it is moved exactly once. The transactional id is the same in all
processes, so a new owner shuts out the one before.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Sequence
from typing import Any, Final
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from dimesh.clock import CLOCK_LOOK
from dimesh.errors import DimeshError, is_permanent
from dimesh.spi.bus import Record
from dimesh_kafka.clients import raise_group_error, stop_consumer
from dimesh_kafka.messages import from_message, to_headers
from dimesh_kafka.publisher import Message
from dimesh_kafka.services import Services

log = logging.getLogger("dimesh.bus.kafka")

DUE: Final = "dimesh-due"
TOPIC: Final = "dimesh-topic"
KEY: Final = "dimesh-key"
_BATCH: Final = 500
"""The maximum number of records that one transaction moves."""


class Delays:
    """Holds records back, and delivers them while this process owns the topic.

    Args:
        services: the clients of the bus.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._topic = services.internal.delayed
        self._transactor = services.transactor("delayed-records")
        self._task: asyncio.Task[None] | None = None
        self._heap: list[tuple[float, int, bytes]] = []
        self._held: dict[bytes, tuple[str, Any]] = {}
        self._tie = itertools.count()
        self._owner = False

    async def hold(self, topic: str, records: Sequence[Record], timeout: float) -> None:
        """Keep records until the time in their ``deliver_at``.

        Raises:
            BackpressureError, PublishError: as for every publish.
        """
        await self._services.ensure_internal(self._topic, partitions=1)
        messages: list[Message] = []
        total = 0
        for record in records:
            own = to_headers(record)
            value = self._services.frames.message(topic, record, own)
            headers = [
                *own,
                (DUE, repr(record.deliver_at).encode("ascii")),
                (TOPIC, topic.encode("ascii")),
                (KEY, record.key.encode("utf-8", "surrogatepass")),
            ]
            size = len(value) + sum(len(one) for _, one in headers)
            messages.append((0, uuid4().bytes, value, headers, size))
            total += size
        await self._services.publisher.send(self._topic, messages, total, timeout)
        self.watch()

    def watch(self) -> None:
        """Join the processes that deliver records when they are due."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="dimesh-kafka-delays")

    async def close(self) -> None:
        """Leave the delivery to other processes."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            try:
                await self._join()
            except (KafkaError, DimeshError, OSError) as error:
                log.warning("this process cannot deliver delayed records, and tries again in 1 s: %s", error)
                await self._services.clock.sleep(1.0)
            except (
                Exception
            ):  # nobody expected it, but without this task delayed records would never be delivered
                log.exception("delivering delayed records failed; the next attempt is in 1 s")
                await self._services.clock.sleep(1.0)

    async def _join(self) -> None:
        options = self._services.options
        consumer = self._services.clients.consumer(
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
                    raise_group_error(consumer)
                    continue
                await self._deliver(consumer)
        finally:
            self._owner = False
            await self._transactor.close()
            await stop_consumer(consumer)

    def set_owner(self, owner: bool) -> None:
        """Record whether this process owns the topic's partition."""
        self._owner = owner

    async def _deliver(self, consumer: AIOKafkaConsumer) -> None:
        part = TopicPartition(self._topic, 0)
        self._heap.clear()
        self._held.clear()
        await self._transactor.open()  # shuts out the last owner: what it has moved is visible
        end = (await consumer.end_offsets([part]))[part]
        await consumer.seek_to_beginning(part)
        while self._owner:
            complete = await consumer.position(part) >= end
            wait = self._until_due() if complete else CLOCK_LOOK
            found = await consumer.getmany(timeout_ms=int(min(wait, CLOCK_LOOK) * 1000) + 1)
            for message in found.get(part, ()):
                self._add(message)
            if complete and self._owner and self._until_due() <= 0:
                await self._move()

    def _add(self, message: Any) -> None:
        if message.value is None:
            self._held.pop(message.key, None)
            return
        headers = dict(message.headers)
        try:
            due, topic = float(headers[DUE]), headers[TOPIC].decode("ascii")
        except (KeyError, ValueError):
            log.error(
                "a record of %s cannot be read and remains there: offset %d", self._topic, message.offset
            )
            return
        self._held[message.key] = (topic, message)
        heapq.heappush(self._heap, (due, next(self._tie), message.key))

    def _until_due(self) -> float:
        while self._heap and self._heap[0][2] not in self._held:
            heapq.heappop(self._heap)
        return max(self._heap[0][0] - self._services.clock.time(), 0.0) if self._heap else CLOCK_LOOK

    async def _move(self) -> None:
        now = self._services.clock.time()
        due: list[tuple[float, int, bytes]] = []
        while self._heap and self._heap[0][0] <= now and len(due) < _BATCH:
            entry = heapq.heappop(self._heap)
            if entry[2] in self._held:
                due.append(entry)
        await self._move_together(due)

    async def _move_together(self, due: Sequence[tuple[float, int, bytes]]) -> None:
        """Move records to their topics in one transaction; if the broker refuses that for good, each in one of its own."""
        topics = {self._held[key][0] for _, _, key in due}
        for topic in topics:
            await self._services.ensure(topic)
        ends: dict[tuple[str, int], int] = {}
        try:
            async with self._transactor.transaction("deliver delayed records") as producer:
                sent = []
                for _, _, key in due:
                    topic, message = self._held[key]
                    headers = [h for h in message.headers if h[0] not in (DUE, TOPIC, KEY)]
                    own = dict(message.headers).get(KEY, b"")
                    record = from_message(own, message.value, headers)
                    number = self._services.publisher.choose(
                        record, self._services.publisher.partitions(topic)
                    )
                    sent.append(await producer.send(topic, message.value, own, number, headers=headers))
                    await producer.send(self._topic, None, key, 0)
                await producer.flush()
                for one in sent:
                    at = await one
                    ends[at.topic, at.partition] = max(ends.get((at.topic, at.partition), 0), at.offset + 1)
        except BaseException as error:
            if is_permanent(error):
                if len(due) > 1:
                    for entry in due:
                        await self._move_together((entry,))
                else:
                    self._refuse(due[0][2], error)
                return
            for entry in due:
                heapq.heappush(self._heap, entry)
            raise
        for _, _, key in due:
            self._held.pop(key, None)
        for (topic, number), end in ends.items():
            self._services.note_end(topic, number, end)

    def _refuse(self, key: bytes, error: BaseException) -> None:
        """Leave a record that its topic never takes where it is, so that it holds up no other."""
        topic, message = self._held.pop(key)
        log.critical(
            "GIVEN UP: a delayed record for topic %s is refused, and remains in %s at offset %d: %s",
            topic,
            self._topic,
            message.offset,
            error,
        )


class _Owner(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, delays: Delays) -> None:
        self._delays = delays

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self._delays.set_owner(False)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._delays.set_owner(bool(assigned))
