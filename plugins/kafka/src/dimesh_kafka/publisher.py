"""Publishing: batches that fill while the one before is in flight, one in flight for each partition.

A publish puts its records into the open batch of each record's partition, encoded at once, and waits. A batch is sent when
the one before it was acknowledged; what is published meanwhile fills the next. So batches grow with the load, the order of a
partition is the order of the calls, and five hundred waiting publishers wait for one answer.

The client numbers batches for the broker (idempotence). When a batch fails for good, the numbering has a gap, after which the
broker refuses every later batch; so the client is replaced. The client is also replaced when a batch gets no answer within
the delivery timeout: its publishers get an error that says that the outcome is unknown, and the batch is not sent again.
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
from dimesh.errors import PublishError, RefusedError
from dimesh.spi.bus import Position, Record
from dimesh.storage.room import Room
from dimesh_kafka.clients import stop_producer
from dimesh_kafka.failures import explained
from dimesh_kafka.frames import Frames
from dimesh_kafka.messages import to_headers
from dimesh_kafka.options import KafkaOptions

log = logging.getLogger("dimesh.bus.kafka")

_MOST_KEYS: Final = 20_000
_OVERHEAD: Final = 100
"""The maximum bytes of a record apart from key, value and headers; includes its share of the batch's header."""
_position = tuple.__new__  # a named tuple's own constructor costs twice as much

Message = tuple[int, bytes, bytes | None, list[tuple[str, bytes]], int]
"""Partition, key, value (None deletes the key of a compacted topic), headers, and the size that counts as queued."""


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
        """Whether the batch was acknowledged or given up, and its publishers have their answer."""


class Partition:
    """The batches of one partition."""

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
        options: the options of the bus.
        new_producer: makes a client, not started.
        clock: the clock of the bus.
        acknowledged: is called with the topic, the partition and the offset after the last record of an acknowledged batch.
        frames: frames payloads.
    """

    def __init__(
        self,
        options: KafkaOptions,
        new_producer: Callable[[], AIOKafkaProducer],
        clock: Clock,
        acknowledged: Callable[[str, int, int], None],
        frames: Frames | None = None,
    ) -> None:
        self._options = options
        self._new_producer = new_producer
        self._clock = clock
        self._acknowledged = acknowledged
        self._frames = frames
        self._topics: dict[str, list[Partition]] = {}
        self._choices: dict[str, int] = {}
        self._held: dict[str, asyncio.Event] = {}
        self._outstanding: dict[AIOKafkaProducer, int] = {}
        self._producer: AIOKafkaProducer | None = None
        self._opening = asyncio.Lock()
        self._renewal: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._room = Room(clock, options.max_queued, options.max_queued_bytes, "records wait for the broker")
        self._watch: Handle | None = None
        self._closed = False

    async def open(self) -> None:
        """Connect. A user who may not publish may still consume, so the error is raised by the first publish."""
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
        """Send what is queued, within the delivery timeout, and disconnect."""
        if self._closed:
            return
        self._closed = True
        self._room.close()
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
        """Return the known number of partitions of a topic; 0 if it is not known."""
        return len(self._topics.get(topic, ()))

    def learn(self, topic: str, partitions: int) -> None:
        """Record the number of partitions of a topic."""
        known = self._topics.setdefault(topic, [])
        known += [Partition(topic, number) for number in range(len(known), partitions)]

    def forget(self, topic: str) -> None:
        """Fail everything that is queued for a topic that was deleted."""
        for part in self._topics.pop(topic, ()):
            for batch in (*part.batches, *((part.sending,) if part.sending else ())):
                self._give_up(batch, PublishError(f"topic {topic!r} was deleted"))
            part.batches.clear()

    def choose(self, record: Record, partitions: int) -> int:
        """Return the partition of a record: the hash, as Kafka's own clients compute it, of what ``partition_by`` names."""
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
        """Send records to a topic whose partitions are known; return when all of them are acknowledged.

        Raises:
            BackpressureError: no room came free within ``timeout`` seconds.
            PublishError: the broker refused, or did not answer within the delivery timeout.
        """
        held = self._held.get(topic)
        while held is not None:
            await held.wait()
            held = self._held.get(topic)
        return await self.send(topic, *self.prepared(topic, records), timeout)

    async def send(
        self, topic: str, messages: Sequence[Message], size: int, timeout: float
    ) -> list[Position | None]:
        """Send messages whose sizes add up to ``size``; see :meth:`append`."""
        if self._producer is None:
            await self._ensure_open()
        room = self._room
        if not room.try_take(len(messages), size):
            await room.take(len(messages), size, timeout)
        parts = self._topics.get(topic)
        if parts is None:
            room.free(len(messages), size)
            raise PublishError(f"topic {topic!r} was deleted; nothing was published")
        append = Append(len(messages), asyncio.get_running_loop().create_future())
        for slot, (number, key, value, headers, bytes_) in enumerate(messages):
            self._put(parts[number], append, slot, key, value, headers, bytes_)
        return await append.future

    def prepared(self, topic: str, records: Sequence[Record]) -> tuple[list[Message], int]:
        """Return the messages of records, and the sum of their sizes.

        Raises:
            EventError: an event cannot be encoded; nothing was sent.
            RefusedError: a record is too large; nothing was sent.
        """
        count = len(self._topics[topic])
        messages: list[Message] = []
        total = 0
        for record in records:
            headers = to_headers(record)
            key = record.key.encode("utf-8", "surrogatepass")
            size = self._size(record, key, headers)
            total += size
            value = record.payload if self._frames is None else self._frames.message(topic, record, headers)
            messages.append((self.choose(record, count), key, value, headers, size))
        return messages, total

    def check(self, records: Sequence[Record]) -> None:
        """Refuse records that are too large.

        Raises:
            EventError: an event cannot be encoded.
            RefusedError: a record is too large.
        """
        for record in records:
            # A header is at most doubled when it becomes text.
            if len(record.payload) + 4 * len(record.header) > self._options.max_request_size // 2:
                self._size(record, record.key.encode("utf-8", "surrogatepass"), to_headers(record))

    def _size(self, record: Record, key: bytes, headers: Sequence[tuple[str, bytes]]) -> int:
        """Return the size that counts as queued."""
        most = self._options.max_request_size
        # The other headers follow from these two, so this suffices; a record near the limit is counted exactly.
        size = len(record.payload) + 2 * len(headers[0][1])
        if size > most // 2:
            size = _OVERHEAD + len(key) + len(record.payload)
            size += sum(len(name) + len(value) + 4 for name, value in headers)
        if size > most:
            raise RefusedError(
                f"a record of {size:,} bytes is larger than the option max_request_size ({most:,}) allows; nothing was "
                "published"
            )
        return size

    def _put(
        self,
        part: Partition,
        append: Append,
        slot: int,
        key: bytes,
        value: bytes | None,
        headers: list[tuple[str, bytes]],
        size: int,
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
            batch.builder.append(timestamp=None, key=key, value=value, headers=headers)
        assert batch is not None
        batch.entries.append((append, slot))
        batch.size += size
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
        except Exception as error:  # nobody expected it, but the publishers must not wait for ever
            log.exception("sending to %s/%d failed", part.topic, part.number)
            self._give_up(
                batch,
                PublishError(
                    f"publish to {part.topic}: unexpected {error!r}: the outcome is unknown. Publishing the same events again "
                    "is safe"
                ),
            )
            self._renew()
        else:
            self._succeed(part, batch, found.offset)
        finally:
            if answer is not None and not answer.done():
                answer.cancel()
            part.sending = None
            self._outstanding[producer] -= 1

    def _succeed(self, part: Partition, batch: Batch, first: int) -> None:
        if not self._settle(batch):
            return
        number = part.number
        if first >= 0:  # the answer to a repeat of an earlier batch has no offset
            self._acknowledged(part.topic, number, first + len(batch.entries))
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
        self._room.free(len(batch.entries), batch.size)
        return True

    # -- time --------------------------------------------------------------------------------------

    def _arm_watch(self) -> None:
        # One timer for all batches; it runs while something is in flight.
        limit = self._options.delivery_timeout

        def check() -> None:
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

        self._watch = self._clock.call_later(max(limit / 10, 0.05), check)

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
                    log.warning("cannot reconnect to publish; the next attempt is in %.1f s: %s", wait, error)
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
        """Fail batches that no broker took within the delivery timeout."""
        limit = self._options.delivery_timeout
        now = self._clock.monotonic()
        for topic in self._topics.values():
            for part in topic:
                while part.batches and now - part.batches[0].since >= limit:
                    self._give_up(
                        part.batches.popleft(),
                        PublishError(
                            f"no broker could be reached to publish to {part.topic} within {limit:g} s"
                        ),
                    )

    async def _retire(self, producer: AIOKafkaProducer) -> None:
        async with _within(self._options.delivery_timeout):
            while self._outstanding[producer]:  # noqa: ASYNC110 - rare, and not urgent
                await asyncio.sleep(0.05)
        del self._outstanding[producer]
        await stop_producer(producer, flush=False)

    # -- excluding others for a transaction --------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def held(self, topic: str) -> Any:
        """Wait until nothing is in flight to the topic, and start nothing more while the block runs."""
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
