"""Consuming: a streaming pull on the event loop, and the leases of what it delivers.

One task reads. Another one extends the leases of everything that was received and is not done yet, also while a handler runs.
A delivery that lapsed and is delivered again while this process still has it is not handed out twice: only its lease changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from uuid import uuid4

import grpc

from dimesh.clock import Clock
from dimesh.errors import DimeshError, FencedError
from dimesh.spi.bus import Attempts, Batch, Delivery, Filter
from dimesh_pubsub.arrivals import Arrivals
from dimesh_pubsub.client import Client, routing
from dimesh_pubsub.failures import TRANSIENT, code_of, explained, refused_acks
from dimesh_pubsub.messages import from_message
from dimesh_pubsub.options import PubSubOptions
from dimesh_pubsub.publisher import number_of

log = logging.getLogger("dimesh.bus.pubsub")

_IDS: Final = 1_000
"""The maximum number of ack ids of one request, which may have 512 KiB; an id has about 200 bytes."""
_QUIET: Final = 0.1
"""The seconds without a message after which a stream that expects no message counts as caught up."""
_DRAIN_TIMEOUT: Final = 2.0
"""The seconds to read a stream to its end when it is closed."""
_HEARTBEAT: Final = 30.0
"""The seconds between two heartbeats of a stream."""


class Lease:
    """The lease of a delivery that this process holds."""

    __slots__ = ("ack_id", "message_id", "since")

    def __init__(self, ack_id: str, message_id: str, since: float) -> None:
        self.ack_id = ack_id
        self.message_id = message_id
        self.since = since


class PubSubStream:
    """An open subscription.

    Args:
        client: the connection.
        options: the options of the bus.
        clock: the clock of the bus.
        subscription: the full name of the subscription.
        wanted: the filter, which is applied again since the service's filter may be wider.
        arrivals: the expected messages, shared by the streams of one group in this process.
        left: called at the end, before the stream counts as closed.
    """

    def __init__(
        self,
        client: Client,
        options: PubSubOptions,
        clock: Clock,
        subscription: str,
        wanted: Filter,
        arrivals: Arrivals,
        left: Callable[[PubSubStream], Awaitable[None]],
    ) -> None:
        self._client = client
        self._options = options
        self._clock = clock
        self.subscription = subscription
        self.wanted = wanted
        self.arrivals = arrivals
        self._left = left
        self._member = uuid4().hex
        self._buffer: deque[Delivery] = deque()
        self._leases: dict[str, Lease] = {}
        """The leases by message id."""
        self._attempts: dict[int, Attempts] = {}
        self._numbers = itertools.count(1)
        self._wake: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._failure: DimeshError | None = None
        self._ended = False
        self._closed = False
        self._leaving = False
        self._call: Any = None
        self._last = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._discarding: set[asyncio.Task[None]] = set()
        self.confirms = False
        """Whether the subscription has exactly-once delivery; each answer of the service contains this."""

    def start(self) -> None:
        """Start to receive."""
        self._last = self._clock.monotonic()
        self._tasks = [
            asyncio.create_task(self._read(), name="dimesh-pubsub-read"),
            asyncio.create_task(self._extend(), name="dimesh-pubsub-leases"),
        ]

    # -- the engine's side -------------------------------------------------------------------------

    async def receive(self, limit: int) -> Sequence[Batch]:
        """See the SPI."""
        while True:
            if self._closed:
                return ()
            if self._buffer:
                count = min(limit, len(self._buffer))
                deliveries = [self._buffer.popleft() for _ in range(count)]
                if len(self._buffer) < self._options.prefetch:
                    self._room.set()
                attempts = (
                    {d.offset: self._attempts.pop(d.offset) for d in deliveries if d.offset in self._attempts}
                    if self._attempts
                    else {}
                )
                return (Batch(0, deliveries, deliveries[-1].offset + 1, attempts),)
            if self._ended:
                return ()
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake

    def caught_up(self) -> bool:
        """See the SPI."""
        if self._ended or self._closed:
            return not self._buffer
        return (
            not self._buffer and self.arrivals.complete() and self._clock.monotonic() - self._last >= _QUIET
        )

    async def commit(self, positions: object) -> None:
        """Do nothing: a queue has no positions."""

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """See the SPI.

        Raises:
            FencedError: with exactly-once delivery, some leases have lapsed; the other deliveries were acknowledged.
        """
        leases: list[Lease] = [d.token for d in deliveries]
        lapsed = 0
        for at in range(0, len(leases), _IDS):
            lapsed += await self._acknowledge(leases[at : at + _IDS])
        if lapsed:
            raise FencedError(
                f"the leases of {lapsed} of {len(leases)} deliveries have lapsed, so these are delivered again: they were held "
                "for longer than a lease can be extended"
            )

    async def _acknowledge(self, leases: Sequence[Lease]) -> int:
        request = self._client.message("AcknowledgeRequest")
        left = {lease.ack_id: lease for lease in leases}
        end = self._clock.monotonic() + self._options.request_timeout
        wait = 0.05
        lapsed = 0
        while left:
            try:
                remaining = max(end - self._clock.monotonic(), 0.1)
                await self._client.once(
                    "Acknowledge", request(subscription=self.subscription, ack_ids=list(left)), remaining
                )
                refused: dict[str, str] = {}
            except grpc.RpcError as error:
                said, known = refused_acks(error)
                if not known:
                    if code_of(error) is grpc.StatusCode.NOT_FOUND:
                        return lapsed  # the subscription was deleted: it delivers nothing again
                    if code_of(error) not in TRANSIENT or self._clock.monotonic() + wait >= end:
                        raise explained(error, "acknowledge") from error
                    refused = dict.fromkeys(left, "TRANSIENT_FAILURE")
                else:
                    refused = dict(said)
            for ack_id, lease in list(left.items()):
                reason = refused.get(ack_id)
                if reason is None or reason.startswith("PERMANENT"):
                    del left[ack_id]
                    lapsed += reason is not None
                    if self._leases.get(lease.message_id) is lease:
                        del self._leases[lease.message_id]
            if left:
                if self._clock.monotonic() + wait >= end:
                    raise FencedError(
                        f"{len(left)} acknowledgements were not confirmed in time; their events may be delivered again"
                    )
                await self._clock.sleep(wait)
                wait = min(wait * 2, 5.0)
        return lapsed

    async def release(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """See the SPI. A delay is at most 600 seconds."""
        leases: list[Lease] = [d.token for d in deliveries]
        for lease in leases:
            if self._leases.get(lease.message_id) is lease:
                del self._leases[lease.message_id]
        await self._modify(
            [lease.ack_id for lease in leases], min(max(round(delay), 1 if delay > 0 else 0), 600)
        )

    async def save_attempts(self, delivery: Delivery, attempts: Attempts | None) -> None:
        """Do nothing: Pub/Sub itself counts deliveries where ``dead_letter_after`` is set."""

    async def close(self) -> None:
        """See the SPI."""
        if self._leaving:
            return
        self._leaving = True
        self._closed = True
        self._wake_up()
        self._room.set()
        reading, extending = self._tasks
        extending.cancel()
        if self._call is not None and not reading.done():
            # The stream is read to its end: what is in flight would otherwise stay leased until its lease lapses.
            with contextlib.suppress(Exception):
                await self._call.done_writing()
        await asyncio.wait({reading}, timeout=_DRAIN_TIMEOUT)
        reading.cancel()
        if self._call is not None:
            self._call.cancel()
        await asyncio.gather(reading, extending, return_exceptions=True)
        self._buffer.clear()
        held = [lease.ack_id for lease in self._leases.values()]
        self._leases.clear()
        if held and not self._ended:
            try:
                await self._modify(held, 0)
            except DimeshError as error:
                log.info(
                    "the leases of %s could not be released and will lapse: %s", self.subscription, error
                )
        await self._left(self)

    def end(self) -> None:
        """End the stream: the subscription was deleted."""
        self._ended = True
        self._leases.clear()
        self._buffer.clear()
        self._wake_up()

    # -- reading -----------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        return self._ended or self._closed

    async def _read(self) -> None:
        errors = 0
        while not self._is_over():
            began = self._clock.monotonic()
            try:
                await self._pull()
                errors = 0
                if self._is_over():
                    return
            except grpc.RpcError as error:
                code = code_of(error)
                if self._is_over():
                    return
                if code is grpc.StatusCode.NOT_FOUND:
                    self.end()
                    return
                # The service ends every stream after about half an hour: that is not a failure.
                errors = errors + 1 if self._clock.monotonic() - began < 10 else 0
                if code not in TRANSIENT:
                    self._failure = explained(error, f"receive from {self.subscription}")
                    self._wake_up()
                elif errors in (3, 30, 300):
                    log.warning("%s", explained(error, f"receive from {self.subscription}"))
            except Exception as error:
                if self._is_over():
                    return
                errors += 1
                log.exception("reading %s failed", self.subscription)
                self._failure = DimeshError(f"cannot receive from {self.subscription}: {error!r}")
                self._wake_up()
            await self._clock.sleep(min(0.05 * 2 ** min(errors, 8), 10.0) * random.uniform(0.5, 1.0))  # noqa: S311

    async def _pull(self) -> None:
        options = self._options
        first = self._client.message("StreamingPullRequest")(
            subscription=self.subscription,
            stream_ack_deadline_seconds=round(options.lease),
            client_id=self._member,
            max_outstanding_messages=options.prefetch,
            max_outstanding_bytes=options.prefetch_bytes,
        )
        call = self._call = self._client.pull(metadata=routing(first))
        try:
            await call.write(first)
            if self._is_over():
                return
            while (answer := await call.read()) is not grpc.aio.EOF:
                self._accept(answer)
                while len(self._buffer) >= 2 * options.prefetch and not self._is_over():
                    self._room.clear()
                    await self._room.wait()
        finally:
            call.cancel()

    def _accept(self, answer: Any) -> None:
        now = self._last = self._clock.monotonic()
        self.confirms = answer.subscription_properties.exactly_once_delivery_enabled
        refused: list[str] = []
        for received in answer.received_messages:
            message = received.message
            id = message.message_id
            held = self._leases.get(id)
            if held is not None:
                held.ack_id = received.ack_id
                continue
            record = from_message(message)
            wanted = self.wanted
            if not wanted.everything and not wanted.wants(record.event_type, record.pillar, record.priority):
                refused.append(received.ack_id)
                continue
            self.arrivals.arrived(id)
            stamp = message.publish_time
            lease = self._leases[id] = Lease(received.ack_id, id, now)
            number = number_of(id) or next(self._numbers)
            delivery = Delivery(record, 0, number, stamp.seconds + stamp.nanos / 1e9, lease)
            if received.delivery_attempt > 1:
                self._attempts[delivery.offset] = Attempts(received.delivery_attempt - 1, delivery.timestamp)
            self._buffer.append(delivery)
        if refused:
            self._discard(refused)
        if self._buffer:
            self._wake_up()

    def _discard(self, ack_ids: Sequence[str]) -> None:
        """Acknowledge what the filter leaves out. If that fails, it is delivered and left out again."""
        request = self._client.message("AcknowledgeRequest")(subscription=self.subscription, ack_ids=ack_ids)

        async def send() -> None:
            with contextlib.suppress(grpc.RpcError):
                await self._client.once("Acknowledge", request, self._options.request_timeout)

        task = asyncio.create_task(send(), name="dimesh-pubsub-discard")
        self._discarding.add(task)
        task.add_done_callback(self._discarding.discard)

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # -- leases ------------------------------------------------------------------------------------

    async def _extend(self) -> None:
        lease = round(self._options.lease)
        pause = lease / 3
        beat = self._clock.monotonic()
        while True:
            await self._clock.sleep(min(pause, _HEARTBEAT))
            now = self._clock.monotonic()
            limit = now - self._options.max_lease
            for id, held in list(self._leases.items()):
                if held.since < limit:
                    log.warning(
                        "%s: a delivery has been held for %g s; its lease is no longer extended",
                        self.subscription,
                        now - held.since,
                    )
                    del self._leases[id]
            held_ids = [held.ack_id for held in self._leases.values()]
            try:
                await self._modify(held_ids, lease)
                pause = lease / 3
            except DimeshError as error:
                pause = lease / 20
                log.info("the leases of %s could not be extended: %s", self.subscription, error)
            except Exception:  # nobody expected it, but without this task every lease would expire
                pause = lease / 20
                log.exception("extending the leases of %s failed", self.subscription)
            if now - beat >= _HEARTBEAT and self._call is not None:
                beat = now
                with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                    await self._call.write(self._client.message("StreamingPullRequest")())

    async def _modify(self, ack_ids: Sequence[str], seconds: int) -> None:
        request = self._client.message("ModifyAckDeadlineRequest")
        for at in range(0, len(ack_ids), _IDS):
            some = ack_ids[at : at + _IDS]
            try:
                await self._client.call(
                    "ModifyAckDeadline",
                    request(subscription=self.subscription, ack_ids=some, ack_deadline_seconds=seconds),
                    "extend leases" if seconds else "release leases",
                    min(self._options.request_timeout, self._options.lease / 3),
                )
            except grpc.RpcError as error:
                refused, known = refused_acks(error)
                if not known:
                    if code_of(error) is grpc.StatusCode.NOT_FOUND:
                        return
                    raise explained(error, "extend leases") from error
                self._forget(refused)

    def _forget(self, refused: Any) -> None:
        """Drop leases that have lapsed: their messages are delivered again, here or to another member."""
        gone = {
            id
            for id, lease in self._leases.items()
            if str(refused.get(lease.ack_id, "")).startswith("PERMANENT")
        }
        for id in gone:
            del self._leases[id]
        if gone:
            self._buffer = deque(d for d in self._buffer if d.token.message_id not in gone)
