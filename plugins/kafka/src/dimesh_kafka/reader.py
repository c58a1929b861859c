"""Reading records without a group, and the bounds of partitions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from dimesh.errors import BusError
from dimesh.spi.bus import Delivery, Start, StartAt
from dimesh_kafka.clients import stop_consumer
from dimesh_kafka.failures import translated
from dimesh_kafka.frames import Frames

ByTopic: TypeAlias = dict[str, dict[int, int]]
"""An offset for each partition of each topic."""


def _reading(topics: Collection[str]) -> str:
    """Say what is being done, for an error."""
    first = min(topics)
    return f"read {first}" if len(topics) == 1 else f"read {first} and {len(topics) - 1} more topics"


class Reader:
    """One consumer, used by one caller at a time.

    Args:
        new_consumer: makes a consumer that is not started.
        patience: the seconds that a read may take.
    """

    def __init__(
        self, new_consumer: Callable[..., AIOKafkaConsumer], patience: float, frames: Frames | None = None
    ) -> None:
        self._new_consumer = new_consumer
        self._frames = frames or Frames(None, None)
        self._patience = patience
        self._consumer: AIOKafkaConsumer | None = None
        self._lock = asyncio.Lock()

    async def close(self) -> None:
        """Disconnect."""
        async with self._lock:
            await self._drop()

    async def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stop_consumer(consumer)

    @contextlib.asynccontextmanager
    async def _using(self, parts: Sequence[TopicPartition], doing: str) -> AsyncIterator[AIOKafkaConsumer]:
        async with self._lock:
            try:
                with translated(doing):
                    if self._consumer is None:
                        self._consumer = self._new_consumer(fetch_max_wait_ms=100)
                        await self._consumer.start()
                    self._consumer.assign(list(parts))
                    async with asyncio.timeout(self._patience):
                        yield self._consumer
                    self._consumer.unsubscribe()  # otherwise it would continue to fetch
            except TimeoutError:
                await self._drop()
                raise BusError(f"cannot {doing}: no answer within {self._patience:g} s") from None
            except BaseException:
                await self._drop()  # its state is unknown
                raise

    async def bounds(self, topic: str, numbers: Sequence[int]) -> tuple[dict[int, int], dict[int, int]]:
        """Return the oldest offset and the offset of the next record, both by partition."""
        oldest, ends = await self.all_bounds({topic: numbers})
        return oldest[topic], ends[topic]

    async def all_bounds(self, wanted: Mapping[str, Sequence[int]]) -> tuple[ByTopic, ByTopic]:
        """Return the oldest offset and the offset of the next record, both by topic and partition.

        All topics are asked about at once. If one of them has gone, the client asks for it until the patience ends.
        """
        parts = [TopicPartition(topic, number) for topic, numbers in wanted.items() for number in numbers]
        oldest: ByTopic = {topic: {} for topic in wanted}
        ends: ByTopic = {topic: {} for topic in wanted}
        if parts:
            async with self._using(parts, _reading(wanted)) as consumer:
                found = (await consumer.beginning_offsets(parts), await consumer.end_offsets(parts))
            for bounds, answer in zip((oldest, ends), found, strict=True):
                for part in parts:
                    bounds[part.topic][part.partition] = answer[part]
        return oldest, ends

    async def at_times(self, times: Mapping[TopicPartition, float]) -> dict[TopicPartition, int | None]:
        """Return the offset of the first record of each partition at or after a time in seconds; None: there is none."""
        if not times:
            return {}
        # Kafka counts milliseconds: rounded down, so that no record is skipped.
        asked = {part: max(int(moment * 1000), 0) for part, moment in times.items()}
        async with self._using(tuple(asked), _reading({part.topic for part in asked})) as consumer:
            found = await consumer.offsets_for_times(asked)
        return {part: None if at is None else at.offset for part, at in found.items()}

    async def resolve(self, topic: str, numbers: Sequence[int], start: Start) -> dict[int, int]:
        """Return the offset at which each partition starts."""
        oldest, ends = await self.bounds(topic, numbers)
        if start is StartAt.EARLIEST:
            return oldest
        if start is StartAt.LATEST:
            return ends
        if isinstance(start, datetime):
            moment = start.timestamp()
            found = await self.at_times({TopicPartition(topic, number): moment for number in numbers})
            return {part.partition: ends[part.partition] if at is None else at for part, at in found.items()}
        assert isinstance(start, Mapping)
        # Never beyond the end: the next record would be skipped silently.
        return {
            number: min(max(start[number], 0), ends[number]) if number in start else oldest[number]
            for number in numbers
        }

    async def read(self, topic: str, offsets: Mapping[int, int], limit: int) -> list[Delivery]:
        """Return at most ``limit`` records of each partition from its offset on, ordered by time."""
        if not offsets:
            return []
        oldest, ends = await self.bounds(topic, list(offsets))
        wanted = {
            n: max(offset, oldest[n]) for n, offset in offsets.items() if max(offset, oldest[n]) < ends[n]
        }
        if not wanted:
            return []
        found: list[Delivery] = []
        parts = [TopicPartition(topic, number) for number in wanted]
        async with self._using(parts, f"read {topic}") as consumer:
            left = dict.fromkeys(parts, limit)
            for part in parts:
                consumer.seek(part, wanted[part.partition])
            while left:
                try:
                    fetched = await consumer.getmany(*left, timeout_ms=100, max_records=1_000)
                except OffsetOutOfRangeError as error:
                    # Retention has removed the record since the bounds were read.
                    fetched = {}
                    for part in error.args[0]:
                        consumer.seek(part, (await consumer.beginning_offsets([part]))[part])
                for part, messages in fetched.items():
                    taken = [m for m in messages if m.offset < ends[part.partition]][: left.get(part, 0)]
                    if self._frames.active:
                        await self._frames.learn(taken)
                    found += [
                        Delivery(
                            self._frames.read(m),
                            part.partition,
                            m.offset,
                            m.timestamp / 1000,
                        )
                        for m in taken
                    ]
                    if part in left:
                        left[part] -= len(taken)
                for part in tuple(left):
                    if left[part] <= 0 or await consumer.position(part) >= ends[part.partition]:
                        del left[part]
        found.sort(key=lambda d: (d.timestamp, d.partition, d.offset))
        return found
