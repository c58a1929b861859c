"""Publishing: requests of its own filling, one on its way for each ordering key.

A publish puts its messages into the queue of their ordering key and waits. A request is sent when the one before it was
acknowledged; what comes meanwhile fills the next. So requests grow with the load by themselves, and the order of a key
is that of the calls, since no request of a key can overtake another.

A request that fails for a passing reason is sent again until the delivery time-out. When it fails for good, what was
queued behind it fails too: sent all the same, it would overtake what its publishers now send again. After that the key
takes messages as before.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import grpc

from dimesh.clock import Clock
from dimesh.errors import BackpressureError, BusClosedError, DimeshError, PublishError
from dimesh.spi.bus import Position, Record
from dimesh_pubsub.client import Client
from dimesh_pubsub.failures import TRANSIENT, code_of, explained
from dimesh_pubsub.messages import MAX_SIZE, ordering_key_of, to_message
from dimesh_pubsub.options import PubSubOptions

_UNORDERED: Final = 8
"""Requests that are on their way at once where there is no order to keep."""
_OVERHEAD: Final = 50
"""Bytes of a message beside data and attributes, at most."""


class Append:
    """The messages of one call, until all of them are acknowledged."""

    __slots__ = ("future", "left", "positions")

    def __init__(self, count: int, future: asyncio.Future[list[Position | None]]) -> None:
        self.positions: list[Position | None] = [None] * count
        self.left = count
        self.future = future

    def fail(self, error: DimeshError) -> None:
        """Tell the caller."""
        if not self.future.done():
            self.future.set_exception(error)


class Entry:
    """One message that waits."""

    __slots__ = ("append", "message", "record", "size", "slot")

    def __init__(self, append: Append, slot: int, record: Record, message: Any, size: int) -> None:
        self.append = append
        self.slot = slot
        self.record = record
        self.message = message
        self.size = size


class KeyQueue:
    """What waits with one ordering key of one topic."""

    __slots__ = ("entries", "key", "tasks", "topic")

    def __init__(self, topic: str, key: str) -> None:
        self.topic = topic
        self.key = key
        self.entries: deque[Entry] = deque()
        self.tasks: set[asyncio.Task[None]] = set()


class Publisher:
    """Sends records.

    Args:
        options: of the bus.
        client: the connection.
        clock: time.
        path_of: the full name of a topic.
        make_topic: makes a topic that is not there.
        published: is told topic, records and message ids of a request that was acknowledged.
    """

    def __init__(
        self,
        options: PubSubOptions,
        client: Client,
        clock: Clock,
        path_of: Callable[[str], str],
        make_topic: Callable[[str], Awaitable[None]],
        published: Callable[[str, Sequence[Record], Sequence[str]], None],
    ) -> None:
        self._options = options
        self._client = client
        self._clock = clock
        self._path_of = path_of
        self._make_topic = make_topic
        self._published = published
        self._queues: dict[tuple[str, str], KeyQueue] = {}
        self._queued = 0
        self._queued_bytes = 0
        self._waiters: deque[tuple[asyncio.Future[None], int, int]] = deque()
        self._granted = 0
        """How many were given room and have not gone on yet."""
        self._closed = False
        self._request = client.message("PublishRequest")

    async def close(self) -> None:
        """Send what waits, within the delivery time-out."""
        if self._closed:
            return
        self._closed = True
        while self._waiters:
            waiter, _, _ = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(BusClosedError("the bus is closed; nothing was sent"))
        end = self._clock.monotonic() + self._options.delivery_timeout
        while tasks := [task for queue in self._queues.values() for task in queue.tasks]:
            left = end - self._clock.monotonic()
            if left <= 0:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                break
            await asyncio.wait(tasks, timeout=left)

    async def append(self, topic: str, records: Sequence[Record], timeout: float) -> list[Position | None]:
        """Send records; returns when all of them are acknowledged, with their message ids as offsets.

        Raises:
            EventError: one cannot be written; nothing was sent.
            BackpressureError: no room within ``timeout`` seconds.
            PublishError: refused, or no answer within the delivery time-out.
        """
        prepared: list[tuple[str, Any, int]] = []
        total = 0
        rule = self._options.order_by
        for record in records:
            key = ordering_key_of(record, rule)
            message = to_message(record, key)
            size = message.ByteSize() + _OVERHEAD
            if size > MAX_SIZE:
                raise PublishError(
                    f"a message of {size:,} bytes is larger than Pub/Sub takes ({MAX_SIZE:,}); nothing was published"
                )
            total += size
            prepared.append((key, message, size))
        if self._closed:
            raise BusClosedError("the bus is closed")
        await self._take_room(len(records), total, timeout)
        append = Append(len(records), asyncio.get_running_loop().create_future())
        for slot, (record, (key, message, size)) in enumerate(zip(records, prepared, strict=True)):
            queue = self._queues.get((topic, key))
            if queue is None:
                queue = self._queues[topic, key] = KeyQueue(topic, key)
            queue.entries.append(Entry(append, slot, record, message, size))
            if len(queue.tasks) < (1 if key else _UNORDERED):
                task = asyncio.create_task(self._send(queue), name="dimesh-pubsub-send")
                queue.tasks.add(task)
        return await append.future

    # -- room --------------------------------------------------------------------------------------

    def _has_room(self, count: int, size: int) -> bool:
        # What is larger than all of the room goes when it is alone.
        return self._queued == 0 or (
            self._queued + count <= self._options.max_queued
            and self._queued_bytes + size <= self._options.max_queued_bytes
        )

    async def _take_room(self, count: int, size: int, timeout: float) -> None:
        """Room for so many messages and bytes, in the order in which it was asked for."""
        if not self._waiters and not self._granted and self._has_room(count, size):
            self._queued += count
            self._queued_bytes += size
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (waiter, count, size)
        self._waiters.append(entry)
        try:
            async with asyncio.timeout(timeout):
                await waiter
        except BaseException as error:
            if entry in self._waiters:
                self._waiters.remove(entry)
            elif not waiter.cancelled() and waiter.done() and waiter.exception() is None:
                self._queued -= count
                self._queued_bytes -= size
            if isinstance(error, TimeoutError):
                raise BackpressureError(
                    f"{self._queued:,} messages wait to be sent, and no room came free within {timeout:g} s; "
                    "nothing was published"
                ) from None
            raise
        finally:
            # Until here nobody could overtake: what was granted room is put into its queue right after this.
            self._granted -= waiter.done() and not waiter.cancelled() and waiter.exception() is None
            self._wake()

    def _wake(self) -> None:
        while self._waiters:
            waiter, count, size = self._waiters[0]
            if waiter.done():
                self._waiters.popleft()  # cancelled, and about to say so itself
                continue
            if not self._has_room(count, size):
                return
            self._waiters.popleft()
            self._queued += count
            self._queued_bytes += size
            self._granted += 1
            waiter.set_result(None)

    def _free(self, entries: Sequence[Entry]) -> None:
        self._queued -= len(entries)
        self._queued_bytes -= sum(entry.size for entry in entries)
        self._wake()

    # -- sending -----------------------------------------------------------------------------------

    async def _send(self, queue: KeyQueue) -> None:
        task = asyncio.current_task()
        try:
            while queue.entries:
                if (
                    self._options.linger
                    and len(queue.entries) < self._options.batch_messages
                    and not self._closed
                ):
                    await self._clock.sleep(self._options.linger)
                entries = self._batch(queue)
                if entries:
                    await self._send_one(queue, entries)
        finally:
            assert task is not None
            queue.tasks.discard(task)
            if not queue.tasks and not queue.entries:
                self._queues.pop((queue.topic, queue.key), None)

    def _batch(self, queue: KeyQueue) -> list[Entry]:
        entries: list[Entry] = []
        size = 0
        waiting = queue.entries
        while waiting and len(entries) < self._options.batch_messages:
            if entries and size + waiting[0].size > self._options.batch_bytes:
                break
            entry = waiting.popleft()
            size += entry.size
            entries.append(entry)
        return entries

    async def _send_one(self, queue: KeyQueue, entries: list[Entry]) -> None:
        topic = queue.topic
        request = self._request(topic=self._path_of(topic), messages=[entry.message for entry in entries])
        try:
            answer = await self._publish(topic, request)
        except DimeshError as error:
            self._fail(queue, entries, error)
        except asyncio.CancelledError:
            self._fail(
                queue,
                entries,
                PublishError("the bus was closed before Pub/Sub answered; the outcome is unknown"),
            )
            raise
        except BaseException as error:
            self._fail(queue, entries, PublishError(f"cannot publish to {topic}: {error!r}"))
            raise
        else:
            ids = list(answer.message_ids)
            self._published(topic, [entry.record for entry in entries], ids)
            self._free(entries)
            for entry, id in zip(entries, ids, strict=True):
                append = entry.append
                append.positions[entry.slot] = Position(0, number_of(id))
                append.left -= 1
                if not append.left and not append.future.done():
                    append.future.set_result(append.positions)

    def _fail(self, queue: KeyQueue, entries: Sequence[Entry], error: DimeshError) -> None:
        for entry in entries:
            entry.append.fail(error)
        self._free(entries)
        if queue.key and queue.entries:
            behind = list(queue.entries)
            queue.entries.clear()
            for entry in behind:
                entry.append.fail(
                    PublishError(
                        f"not published to {queue.topic}: an earlier event of the same ordering key failed ({error}). "
                        "Publish them again, in order"
                    )
                )
            self._free(behind)

    async def _publish(self, topic: str, request: Any) -> Any:
        doing = f"publish to {topic}"
        end = self._clock.monotonic() + self._options.delivery_timeout
        wait = 0.05
        made = False
        while True:
            left = end - self._clock.monotonic()
            try:
                return await self._client.once(
                    "Publish", request, max(min(left, self._options.request_timeout), 0.1)
                )
            except grpc.RpcError as error:
                code = code_of(error)
                if code is grpc.StatusCode.NOT_FOUND and not made:
                    made = True
                    await self._make_topic(topic)
                    continue
                if code not in TRANSIENT or self._clock.monotonic() + wait >= end:
                    raise explained(error, doing, publishing=True) from error
            except Exception as error:
                raise explained(error, doing, publishing=True) from error
            await self._clock.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311 - spreads retries, hides nothing
            wait = min(wait * 1.5, 5.0)


def number_of(message_id: str) -> int:
    """A message's id as a number: it is one, beside what a fake puts around it."""
    digits = "".join(c for c in message_id if c.isdecimal())
    return int(digits) if digits else 0
