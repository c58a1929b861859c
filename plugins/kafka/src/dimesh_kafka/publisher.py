"""Publishing: batches of its own filling, one on its way for each partition.

A publish puts its records into the open batch of each record's partition, encoded at once, and waits. A batch is sent
when the one before it was acknowledged; what comes meanwhile fills the next. So batches grow with the load by
themselves, the order of a partition is that of the calls, and five hundred waiting publishers wait for one answer.

The client numbers batches for the broker (idempotence). When one fails for good, that numbering has a hole, after which
the broker refuses all further ones; so the client is replaced. The same is done when a batch gets no answer within the
delivery time-out: who waits for it is told that the outcome is unknown, and it is not sent again behind their back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import ClusterAuthorizationFailedError, KafkaError
from aiokafka.partitioner import murmur2

from dimesh.clock import Clock, Handle
from dimesh.errors import BackpressureError, BusClosedError, PublishError
from dimesh.spi.bus import Position, Record
from dimesh_kafka.clients import stop_producer
from dimesh_kafka.failures import explained
from dimesh_kafka.messages import to_headers
from dimesh_kafka.options import KafkaOptions

log = logging.getLogger("dimesh.bus.kafka")

_MOST_KEYS: Final = 20_000
_OVERHEAD: Final = 100
"""Bytes of a record beside key, value and headers, at most; with its share of the batch's header."""
_position = tuple.__new__  # a named tuple's own constructor costs twice as much

Message = tuple[int, bytes, bytes | None, list[tuple[str, bytes]]]
"""partition, key, value (None: the key is deleted, where the topic is compacted), headers"""


class Append:
    """The records of one call, until all of them are acknowledged."""

    __slots__ = ("future", "left", "positions")

    def __init__(self, count: int, future: asyncio.Future[list[Position | None]]) -> None:
        self.positions: list[Position | None] = [None] * count
        self.left = count
        self.future = future


class Batch:
    """Records of one partition that are sent together."""

    __slots__ = ("builder", "entries", "settled", "since", "size")

    def __init__(self, builder: Any, since: float) -> None:
        self.builder = builder
        self.entries: list[tuple[Append, int]] = []
        self.since = since
        self.size = 0
        self.settled = False
        """Acknowledged or given up: who waited for it was told."""


class Partition:
    """One partition's batches."""

    __slots__ = ("batches", "number", "sending", "task", "topic")

    def __init__(self, topic: str, number: int) -> None:
        self.topic = topic
        self.number = number
        self.batches: deque[Batch] = deque()
        self.sending: Batch | None = None
        self.task: asyncio.Task[None] | None = None


class Publisher:
    """Sends records.

    Args:
        options: of the bus.
        new_producer: makes a client, not started.
        clock: time.
        written: is told topic, partition and the offset after the last record of a batch that was acknowledged.
    """

    def __init__(
        self,
        options: KafkaOptions,
        new_producer: Callable[[], AIOKafkaProducer],
        clock: Clock,
        written: Callable[[str, int, int], None],
    ) -> None:
        self._options = options
        self._new_producer = new_producer
        self._clock = clock
        self._written = written
        self._topics: dict[str, list[Partition]] = {}
        self._choices: dict[str, int] = {}
        self._held: dict[str, asyncio.Event] = {}
        self._outstanding: dict[AIOKafkaProducer, int] = {}
        self._producer: AIOKafkaProducer | None = None
        self._opening = asyncio.Lock()
        self._renewal: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._queued = 0
        self._queued_bytes = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._watch: Handle | None = None
        self._closed = False

    async def open(self) -> None:
        """Connect. A user who may not publish may still consume: that is said at the first publish."""
        try:
            self._producer = await self._started()
        except ClusterAuthorizationFailedError as error:
            log.info("this user may not publish: %s", error)

    async def _ensure_open(self) -> None:
        async with self._opening:
            if self._producer is None:
                try:
                    self._producer = await self._started()
                except KafkaError as error:
                    raise explained(error, "publish", publishing=True) from error

    async def _started(self) -> AIOKafkaProducer:
        producer = self._new_producer()
        try:
            await producer.start()
        except BaseException:
            await stop_producer(producer, flush=False)
            raise
        self._outstanding[producer] = 0
        return producer

    async def close(self) -> None:
        """Send what waits, within the delivery time-out, and disconnect."""
        if self._closed:
            return
        self._closed = True
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.cancel()
        tasks = [p.task for topic in self._topics.values() for p in topic if p.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._options.delivery_timeout)
            for task in late:
                task.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if self._renewal is not None:
            await asyncio.gather(self._renewal, return_exceptions=True)
        await asyncio.gather(*self._retiring, return_exceptions=True)
        if self._producer is not None:
            await stop_producer(self._producer)

    # -- topics ------------------------------------------------------------------------------------

    def partitions(self, topic: str) -> int:
        """How many a topic has, as far as is known; 0: not known."""
        return len(self._topics.get(topic, ()))

    def learn(self, topic: str, partitions: int) -> None:
        """A topic has so many partitions now."""
        known = self._topics.setdefault(topic, [])
        known += [Partition(topic, number) for number in range(len(known), partitions)]

    def forget(self, topic: str) -> None:
        """The topic was deleted: what waits for it fails."""
        for part in self._topics.pop(topic, ()):
            for batch in (*part.batches, *((part.sending,) if part.sending else ())):
                self._give_up(batch, PublishError(f"topic {topic!r} was deleted"))
            part.batches.clear()

    def choose(self, record: Record, partitions: int) -> int:
        """The partition of a record: the hash that Kafka's own clients use, of what ``partition_by`` says."""
        if partitions == 1:
            return 0
        rule = self._options.partition_by
        if rule == "key":
            value = record.key
        elif rule == "pillar":
            value = record.pillar
        elif rule == "event":
            value = record.event.event_id
        else:
            value = record.event.metadata.tags.get("tenant", record.key)
        found = self._choices.get(value)
        if found is None:
            if len(self._choices) >= _MOST_KEYS:
                self._choices.clear()
            found = self._choices[value] = murmur2(value.encode("utf-8", "surrogatepass")) & 0x7FFFFFFF
        return found % partitions

    # -- publishing --------------------------------------------------------------------------------

    async def append(self, topic: str, records: Sequence[Record], timeout: float) -> list[Position | None]:
        """Send records; returns when all of them are acknowledged. The topic's partitions are known.

        Raises:
            BackpressureError: no room within ``timeout`` seconds.
            PublishError: refused, or no answer within the delivery time-out.
        """
        held = self._held.get(topic)
        while held is not None:
            await held.wait()
            held = self._held.get(topic)
        return await self.send(topic, *self.prepared(topic, records), timeout)

    async def send(
        self, topic: str, messages: Sequence[Message], size: int, timeout: float
    ) -> list[Position | None]:
        """Send messages of ``size`` bytes in all; see :meth:`append`."""
        if self._waiters or not self._has_room(len(messages), size):
            await self._wait_for_room(len(messages), size, timeout)
        if self._closed:
            raise BusClosedError("the bus is closed")
        if self._producer is None:
            await self._ensure_open()
        parts = self._topics.get(topic)
        if parts is None:
            raise PublishError(f"topic {topic!r} was deleted; nothing was published")
        append = Append(len(messages), asyncio.get_running_loop().create_future())
        for slot, (number, key, value, headers) in enumerate(messages):
            self._put(parts[number], append, slot, key, value, headers)
        return await append.future

    def prepared(self, topic: str, records: Sequence[Record]) -> tuple[list[Message], int]:
        """The messages of records, and their bytes.

        Raises:
            EventError: one cannot be written; nothing was sent.
            PublishError: one is too large; nothing was sent.
        """
        count = len(self._topics[topic])
        most = self._options.max_request_size
        messages: list[Message] = []
        total = 0
        for record in records:
            headers = to_headers(record)
            key = record.key.encode("utf-8", "surrogatepass")
            # All else follows from these; what is exactly too large is counted exactly.
            size = len(record.payload) + 2 * len(headers[0][1])
            if size > most // 2:
                size = _OVERHEAD + len(key) + len(record.payload)
                size += sum(len(name) + len(value) + 4 for name, value in headers)
            if size > most:
                raise PublishError(
                    f"a record of {size:,} bytes is larger than the option max_request_size "
                    f"({self._options.max_request_size:,}) allows; nothing was published"
                )
            total += size
            messages.append((self.choose(record, count), key, record.payload, headers))
        return messages, total

    def _put(
        self,
        part: Partition,
        append: Append,
        slot: int,
        key: bytes,
        value: bytes | None,
        headers: list[tuple[str, bytes]],
    ) -> None:
        batch = part.batches[-1] if part.batches else None
        added = (
            batch.builder.append(timestamp=None, key=key, value=value, headers=headers)
            if batch is not None
            else None
        )
        if added is None:
            assert self._producer is not None
            batch = Batch(self._producer.create_batch(), self._clock.monotonic())
            part.batches.append(batch)
            added = batch.builder.append(timestamp=None, key=key, value=value, headers=headers)
        assert batch is not None
        batch.entries.append((append, slot))
        batch.size += added.size
        self._queued += 1
        self._queued_bytes += added.size
        if part.task is None:
            part.task = asyncio.create_task(self._send(part), name="dimesh-kafka-send")
            if self._watch is None:
                self._arm_watch()

    async def _send(self, part: Partition) -> None:
        try:
            while part.batches:
                linger = self._options.linger
                if linger and len(part.batches) == 1:
                    wait = part.batches[0].since + linger - self._clock.monotonic()
                    if wait > 0 and part.batches[0].size < self._options.batch_size * 3 // 4:
                        await self._clock.sleep(wait)
                if self._renewal is not None:
                    await asyncio.shield(self._renewal)
                if part.batches:
                    await self._send_one(part, part.batches.popleft())
        finally:
            part.sending = None
            part.task = None
            if part.batches and not self._closed:
                part.task = asyncio.create_task(self._send(part), name="dimesh-kafka-send")

    async def _send_one(self, part: Partition, batch: Batch) -> None:
        producer = self._producer
        assert producer is not None
        part.sending = batch
        self._outstanding[producer] += 1
        answer: asyncio.Future[Any] | None = None
        try:
            answer = await producer.send_batch(batch.builder, part.topic, partition=part.number)
            found = await answer
        except KafkaError as error:
            self._give_up(batch, explained(error, f"publish to {part.topic}", publishing=True))
            self._renew()
        except asyncio.CancelledError:
            if not batch.settled:
                self._give_up(batch, PublishError("the bus was closed before the broker answered"))
                raise
        else:
            self._acknowledged(part, batch, found.offset)
        finally:
            if answer is not None and not answer.done():
                answer.cancel()
            part.sending = None
            self._outstanding[producer] -= 1

    def _acknowledged(self, part: Partition, batch: Batch, first: int) -> None:
        if not self._settle(batch):
            return
        number = part.number
        if first >= 0:  # a repeat that the broker had already does not say where
            self._written(part.topic, number, first + len(batch.entries))
            for offset, (append, slot) in enumerate(batch.entries, first):
                append.positions[slot] = _position(Position, (number, offset))
        for append, _ in batch.entries:
            append.left -= 1
            if append.left == 0 and not append.future.done():
                append.future.set_result(append.positions)

    def _give_up(self, batch: Batch, error: Exception) -> None:
        if not self._settle(batch):
            return
        for append, _ in batch.entries:
            if not append.future.done():
                append.future.set_exception(error)

    def _settle(self, batch: Batch) -> bool:
        if batch.settled:
            return False
        batch.settled = True
        self._queued -= len(batch.entries)
        self._queued_bytes -= batch.size
        self._call_next()
        return True

    # -- time --------------------------------------------------------------------------------------

    def _arm_watch(self) -> None:
        # One timer for all batches; it runs while something is on its way.
        limit = self._options.delivery_timeout

        def look() -> None:
            self._watch = None
            now = self._clock.monotonic()
            busy = False
            for topic in tuple(self._topics.values()):
                for part in topic:
                    if part.task is None:
                        continue
                    busy = True
                    oldest = part.sending
                    if oldest is not None and now - oldest.since >= limit:
                        self._give_up(
                            oldest,
                            PublishError(
                                f"no broker acknowledged the records for {part.topic}/{part.number} within "
                                f"{limit:g} s: the outcome is unknown. Publishing the same events again is safe"
                            ),
                        )
                        self._renew()
                        part.task.cancel()
            if busy and not self._closed:
                self._arm_watch()

        self._watch = self._clock.call_later(max(limit / 10, 0.05), look)

    # -- replacing the client ----------------------------------------------------------------------

    def _renew(self) -> None:
        if self._renewal is None and not self._closed:
            self._renewal = asyncio.create_task(self._replace(), name="dimesh-kafka-renew")

    async def _replace(self) -> None:
        old = self._producer
        wait = 0.1
        try:
            while not self._closed:
                try:
                    self._producer = await self._started()
                    break
                except (KafkaError, OSError) as error:
                    log.warning("cannot reconnect to publish, again in %.1f s: %s", wait, error)
                    self._fail_late()
                    await self._clock.sleep(wait)
                    wait = min(wait * 2, 5.0)
        finally:
            self._renewal = None
        if old is not None and old is not self._producer:
            task = asyncio.create_task(self._retire(old))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    def _fail_late(self) -> None:
        """Without any broker nothing is sent, and what waits too long fails all the same."""
        limit = self._options.delivery_timeout
        now = self._clock.monotonic()
        for topic in self._topics.values():
            for part in topic:
                while part.batches and now - part.batches[0].since >= limit:
                    self._give_up(
                        part.batches.popleft(),
                        PublishError(f"no broker was there to publish to {part.topic} within {limit:g} s"),
                    )

    async def _retire(self, producer: AIOKafkaProducer) -> None:
        async with _within(self._options.delivery_timeout):
            while self._outstanding[producer]:  # noqa: ASYNC110 - rare, and nobody is in a hurry
                await asyncio.sleep(0.05)
        del self._outstanding[producer]
        await stop_producer(producer, flush=False)

    # -- room --------------------------------------------------------------------------------------

    def _has_room(self, count: int, size: int) -> bool:
        if self._queued == 0:
            return True
        return (
            self._queued + count <= self._options.max_queued
            and self._queued_bytes + size <= self._options.max_queued_bytes
        )

    async def _wait_for_room(self, count: int, size: int, timeout: float) -> None:
        # Those who wait are served in the order in which they came, which keeps the order of a key.
        end = self._clock.monotonic() + timeout
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(turn)
        late = self._clock.call_later(timeout, self._call_all) if timeout > 0 else None
        try:
            while timeout > 0 and self._clock.monotonic() < end:
                if self._waiters[0] is turn and self._has_room(count, size):
                    return
                await asyncio.wait((turn,))
                if self._closed:
                    raise BusClosedError("the bus is closed")
                fresh: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiters[self._waiters.index(turn)] = fresh
                turn = fresh
        finally:
            if late is not None:
                late.cancel()
            if turn in self._waiters:
                self._waiters.remove(turn)
            self._call_next()
        raise BackpressureError(
            f"{self._queued:,} records wait for the broker; there was no room within {timeout:g} s and nothing was "
            "published. Publish slower, or raise the option 'max_queued'"
        )

    def _call_next(self) -> None:
        if self._waiters and not self._waiters[0].done():
            self._waiters[0].set_result(None)

    def _call_all(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    # -- making way for a transaction --------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def held(self, topic: str) -> Any:
        """Nothing of the topic is on its way, and nothing more is begun, while the block runs."""
        while topic in self._held:
            await self._held[topic].wait()
        gate = self._held[topic] = asyncio.Event()
        try:
            while tasks := [p.task for p in self._topics.get(topic, ()) if p.task is not None]:
                await asyncio.wait(tasks)
            yield
        finally:
            del self._held[topic]
            gate.set()


@contextlib.asynccontextmanager
async def _within(seconds: float) -> Any:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            yield
