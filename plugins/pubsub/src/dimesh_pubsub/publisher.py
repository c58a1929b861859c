"""Publishing: requests that fill while the one before is in flight, one in flight for each ordering key.

A publish puts its messages into the queue of their ordering key and waits. A request is sent when the one before it was
acknowledged; what is published meanwhile fills the next. So requests grow with the load, and the order of a key is the order
of the calls, since no request of a key can overtake another.

A request that fails for a transient reason is sent again until the delivery timeout. When a request fails for good, what is
queued behind it fails, too: sent anyway, it would overtake the events that their publishers now publish again. After that,
the key accepts messages as before.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import grpc

from dimesh.clock import Clock
from dimesh.errors import DimeshError, PublishError, RefusedError
from dimesh.spi.bus import Position, Record
from dimesh.storage.room import Room
from dimesh_pubsub.client import Client
from dimesh_pubsub.failures import TRANSIENT, code_of, explained
from dimesh_pubsub.messages import MAX_SIZE, ordering_key_of, to_message
from dimesh_pubsub.options import PubSubOptions

_UNORDERED: Final = 8
"""The number of requests in flight at once where there is no order to keep."""
_OVERHEAD: Final = 50
"""The maximum bytes of a message apart from data and attributes."""


class Append:
    """The messages of one call, until all of them are acknowledged."""

    __slots__ = ("future", "left", "positions")

    def __init__(self, count: int, future: asyncio.Future[list[Position | None]]) -> None:
        self.positions: list[Position | None] = [None] * count
        self.left = count
        self.future = future

    def fail(self, error: DimeshError) -> None:
        """Raise the error from the call."""
        if not self.future.done():
            self.future.set_exception(error)


class Entry:
    """One message in a queue."""

    __slots__ = ("append", "message", "record", "size", "slot")

    def __init__(self, append: Append, slot: int, record: Record, message: Any, size: int) -> None:
        self.append = append
        self.slot = slot
        self.record = record
        self.message = message
        self.size = size


class KeyQueue:
    """The queued messages of one ordering key of one topic."""

    __slots__ = ("entries", "key", "tasks", "topic")

    def __init__(self, topic: str, key: str) -> None:
        self.topic = topic
        self.key = key
        self.entries: deque[Entry] = deque()
        self.tasks: set[asyncio.Task[None]] = set()


class Publisher:
    """Sends records.

    Args:
        options: the options of the bus.
        client: the connection.
        clock: the clock of the bus.
        path_of: returns the full name of a topic.
        create_topic: creates a topic that is missing.
        acknowledged: is called with the topic, the records and the message ids of an acknowledged request.
    """

    def __init__(
        self,
        options: PubSubOptions,
        client: Client,
        clock: Clock,
        path_of: Callable[[str], str],
        create_topic: Callable[[str], Awaitable[None]],
        acknowledged: Callable[[str, Sequence[Record], Sequence[str]], None],
    ) -> None:
        self._options = options
        self._client = client
        self._clock = clock
        self._path_of = path_of
        self._create_topic = create_topic
        self._acknowledged = acknowledged
        self._queues: dict[tuple[str, str], KeyQueue] = {}
        self._room = Room(clock, options.max_queued, options.max_queued_bytes, "messages wait to be sent")
        self._closed = False
        self._request = client.message("PublishRequest")

    async def close(self) -> None:
        """Send what is queued, within the delivery timeout."""
        if self._closed:
            return
        self._closed = True
        self._room.close()
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
        """Send records; return when all of them are acknowledged, with their message ids as offsets.

        Raises:
            EventError: an event cannot be encoded; nothing was sent.
            BackpressureError: no room came free within ``timeout`` seconds.
            RefusedError: a message is larger than the service accepts; nothing was sent.
            PublishError: the service refused, or did not answer within the delivery timeout.
        """
        prepared = self.prepare(records)
        total = sum(size for _, _, size in prepared)
        if not self._room.try_take(len(records), total):
            await self._room.take(len(records), total, timeout)
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

    def prepare(self, records: Sequence[Record]) -> list[tuple[str, Any, int]]:
        """Return the ordering key, the message and the size of each record.

        Raises:
            EventError: an event cannot be encoded.
            RefusedError: a message is larger than the service accepts.
        """
        prepared: list[tuple[str, Any, int]] = []
        rule = self._options.order_by
        for record in records:
            key = ordering_key_of(record, rule)
            message = to_message(record, key)
            size = message.ByteSize() + _OVERHEAD
            if size > MAX_SIZE:
                raise RefusedError(
                    f"a message of {size:,} bytes is larger than Pub/Sub accepts ({MAX_SIZE:,}); nothing was published"
                )
            prepared.append((key, message, size))
        return prepared

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
                    await self._send_together(queue, entries)
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

    async def _send_together(self, queue: KeyQueue, entries: list[Entry]) -> None:
        """Send the messages in one request, or in as few as it takes to find the one that the service refuses."""
        parts = deque([entries])
        while parts:
            part = parts.popleft()
            try:
                ids = await self._send_one(queue.topic, part)
            except RefusedError as error:
                # The service refuses a request as a whole, and publishes nothing of it. The messages of other calls must not
                # fail with the one that it means.
                calls = [list(group) for _, group in itertools.groupby(part, lambda entry: entry.append)]
                half = len(calls) // 2
                if half:
                    parts.extendleft(
                        [list(itertools.chain(*calls[half:])), list(itertools.chain(*calls[:half]))]
                    )
                else:
                    self._fail(part, error)
            except asyncio.CancelledError:
                closed = PublishError("the bus was closed before Pub/Sub answered; the outcome is unknown")
                self._fail_all(queue, [part, *parts], closed)
                raise
            except Exception as error:
                if not isinstance(error, DimeshError):
                    error = PublishError(f"cannot publish to {queue.topic}: unexpected {error!r}")
                self._fail_all(queue, [part, *parts], error)
                return
            else:
                self._succeed(queue.topic, part, ids)

    async def _send_one(self, topic: str, entries: Sequence[Entry]) -> list[str]:
        """Send a request; return the message ids."""
        request = self._request(topic=self._path_of(topic), messages=[entry.message for entry in entries])
        answer = await self._publish(topic, request)
        return list(answer.message_ids)

    def _succeed(self, topic: str, entries: Sequence[Entry], ids: Sequence[str]) -> None:
        self._acknowledged(topic, [entry.record for entry in entries], ids)
        self._free(entries)
        for entry, id in zip(entries, ids, strict=True):
            append = entry.append
            append.positions[entry.slot] = Position(0, number_of(id))
            append.left -= 1
            if not append.left and not append.future.done():
                append.future.set_result(append.positions)

    def _fail(self, entries: Sequence[Entry], error: DimeshError) -> None:
        for entry in entries:
            entry.append.fail(error)
        self._free(entries)

    def _fail_all(self, queue: KeyQueue, parts: Sequence[Sequence[Entry]], error: DimeshError) -> None:
        """Fail messages whose outcome is unknown, and what waits behind them in the order of their key."""
        self._fail(list(itertools.chain(*parts)), error)
        if queue.key and queue.entries:
            behind = list(queue.entries)
            queue.entries.clear()
            self._fail(
                behind,
                PublishError(
                    f"not published to {queue.topic}: an earlier event of the same ordering key failed ({error}). "
                    "Publish them again, in order"
                ),
            )

    def _free(self, entries: Sequence[Entry]) -> None:
        self._room.free(len(entries), sum(entry.size for entry in entries))

    async def _publish(self, topic: str, request: Any) -> Any:
        doing = f"publish to {topic}"
        end = self._clock.monotonic() + self._options.delivery_timeout
        wait = 0.05
        created = False
        while True:
            left = end - self._clock.monotonic()
            try:
                return await self._client.once(
                    "Publish", request, max(min(left, self._options.request_timeout), 0.1)
                )
            except grpc.RpcError as error:
                code = code_of(error)
                if code is grpc.StatusCode.NOT_FOUND and not created:
                    created = True
                    await self._create_topic(topic)
                    continue
                if code not in TRANSIENT or self._clock.monotonic() + wait >= end:
                    raise explained(error, doing, publishing=True) from error
            except Exception as error:
                raise explained(error, doing, publishing=True) from error
            await self._clock.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311 - spreads retries, hides nothing
            wait = min(wait * 1.5, 5.0)


def number_of(message_id: str) -> int:
    """Return a message's id as a number, without the letters that some fakes add."""
    digits = "".join(c for c in message_id if c.isdecimal())
    return int(digits) if digits else 0
