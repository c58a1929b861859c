"""Small tables that all processes of the mesh share: compacted topics, read into memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from dimesh.errors import BusError
from dimesh_kafka.clients import stop_consumer
from dimesh_kafka.failures import translated

log = logging.getLogger("dimesh.bus.kafka")


class Table:
    """The newest value of each key of a compacted topic.

    Args:
        topic: the topic, which exists.
        partitions: its number of partitions.
        new_consumer: makes a consumer that is not started.
        patience: the seconds to wait for the newest values.
    """

    def __init__(
        self, topic: str, partitions: int, new_consumer: Callable[..., AIOKafkaConsumer], patience: float
    ) -> None:
        self.values: dict[bytes, bytes] = {}
        self._topic = topic
        self._parts = [TopicPartition(topic, number) for number in range(partitions)]
        self._new_consumer = new_consumer
        self._patience = patience
        self._positions: dict[TopicPartition, int] = dict.fromkeys(self._parts, 0)
        self._moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Start to read."""
        self._consumer = self._new_consumer(fetch_max_wait_ms=100)
        with translated(f"read {self._topic}"):
            try:
                await self._consumer.start()
                self._consumer.assign(self._parts)
                await self._consumer.seek_to_beginning(*self._parts)
            except BaseException:
                await stop_consumer(self._consumer)
                raise
        self._task = asyncio.create_task(self._follow(), name=f"dimesh-kafka-table-{self._topic}")

    async def close(self) -> None:
        """Disconnect."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await stop_consumer(self._consumer)

    async def _follow(self) -> None:
        while True:
            try:
                found = await self._consumer.getmany(timeout_ms=200)
                for messages in found.values():
                    for message in messages:
                        if message.value is None:
                            self.values.pop(message.key, None)
                        else:
                            self.values[message.key] = message.value
                for part in self._parts:
                    self._positions[part] = await self._consumer.position(part)
                self._moved.set()
            except KafkaError as error:
                log.warning("cannot read %s; the next attempt is in 1 s: %s", self._topic, error)
                await asyncio.sleep(1.0)
            except Exception:  # nobody expected it, but without this task the values would be old for ever
                log.exception("reading %s failed; the next attempt is in 1 s", self._topic)
                await asyncio.sleep(1.0)

    async def current(self) -> dict[bytes, bytes]:
        """Return the values, including everything that was written before the call.

        Raises:
            BusError: the broker did not answer in time.
        """
        with translated(f"read {self._topic}"):
            ends = await self._consumer.end_offsets(self._parts)
        try:
            async with asyncio.timeout(self._patience):
                while any(self._positions[part] < end for part, end in ends.items()):
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            raise BusError(f"{self._topic} could not be read up to its end in {self._patience:g} s") from None
        return self.values


class Tables:
    """The tables of a bus, opened when they are first needed.

    Args:
        partitions_of: returns the number of partitions of a topic; 0 if there is no such topic.
        create: creates a compacted topic and returns its number of partitions.
        new_consumer: makes a consumer that is not started.
        patience: the seconds to wait for the newest values.
    """

    def __init__(
        self,
        partitions_of: Callable[[str], Awaitable[int]],
        create: Callable[[str], Awaitable[int]],
        new_consumer: Callable[..., AIOKafkaConsumer],
        patience: float,
    ) -> None:
        self._partitions_of = partitions_of
        self._create = create
        self._new_consumer = new_consumer
        self._patience = patience
        self._open: dict[str, Table] = {}
        self._lock = asyncio.Lock()

    async def get(self, topic: str, create: bool = False) -> Table | None:
        """Return the table of a topic; None if there is no such topic and ``create`` is false."""
        async with self._lock:
            table = self._open.get(topic)
            if table is None:
                partitions = await self._partitions_of(topic)
                if not partitions and create:
                    partitions = await self._create(topic)
                if not partitions:
                    return None
                table = Table(topic, partitions, self._new_consumer, self._patience)
                await table.open()
                self._open[topic] = table
            return table

    async def close(self) -> None:
        """Disconnect all tables."""
        tables: Sequence[Table] = tuple(self._open.values())
        self._open.clear()
        for table in tables:
            await table.close()
