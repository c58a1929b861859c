"""Workers for handlers that take a list of events.

A batch is cut from one partition, in order, and tried as a whole. When its attempts are used up, it is split and each event
is tried once alone, so that one bad event is dead-lettered and the others are handled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from dimesh.bus import headers as h
from dimesh.bus.callables import NOT_RUN, not_run
from dimesh.bus.dedup import identity_of
from dimesh.bus.door import without_engine_headers
from dimesh.bus.handler import Middleware
from dimesh.bus.inflight import InFlight, settle
from dimesh.bus.observer import notify
from dimesh.bus.options import SubscriptionState, SubscriptionStats
from dimesh.bus.progress import Lane, PartitionProgress
from dimesh.bus.services import Services
from dimesh.bus.spec import SubscriptionSpec
from dimesh.bus.workers import Worker, Workers
from dimesh.errors import ConfigurationError
from dimesh.events.current import handling_batch, handling_event
from dimesh.events.event import Event
from dimesh.spi.bus import Attempts, Delivery

FOREVER: Final = 86_400.0


class BatchWorkers(Workers):
    """The workers of a subscription whose handler takes batches. A lane is a whole partition here."""

    def __init__(
        self,
        spec: SubscriptionSpec,
        services: Services,
        in_flight: InFlight,
        stats: SubscriptionStats,
        middleware: Sequence[Middleware],
        changed: Callable[[SubscriptionState, str], None],
    ) -> None:
        if middleware:
            raise ConfigurationError(
                "middleware works on single events and cannot be used with batch_size; use an interceptor of the bus"
            )
        super().__init__(spec, services, in_flight, stats, middleware, changed)
        self._size = spec.handler.batch_size or 1
        self._filled: dict[Lane, asyncio.Future[None]] = {}
        """The lanes whose next batch is filling."""
        self._pauses: dict[Lane, asyncio.Future[None]] = {}
        """The lanes whose batch waits for another attempt."""
        self._held: dict[Lane, asyncio.Future[None]] = {}
        """The lanes whose batch would be tried again if the gate were not shut."""

    def put(self, part: PartitionProgress, deliveries: Sequence[Delivery]) -> None:
        """Put all records into the one lane of the partition."""
        if not deliveries:
            return
        lane = part.lanes.get("")
        if lane is None:
            lane = part.lanes[""] = Lane(part, "")
            self.ready.append(lane)
        lane.queue.extend(deliveries)
        filled = self._filled.get(lane)
        if filled is not None and len(lane.queue) >= self._size and not filled.done():
            filled.set_result(None)
        self.wake()

    def hurry(self) -> None:
        """Hand over the batches that are filling, and end the pauses after which there is no other attempt here."""
        for filled in self._filled.values():
            settle(filled)
        for lane, pause in (*self._pauses.items(), *self._held.items()):
            if self._leaves(lane.part):
                settle(pause)

    def wake(self) -> None:
        """Wake workers, and the batches that wait at the gate."""
        super().wake()
        for held in self._held.values():
            settle(held)

    def _leaves(self, part: PartitionProgress) -> bool:
        """Whether what is not handled yet is left to the next member of the group."""
        return part.revoked or (self.in_flight.stopping and self.spec.comes_again)

    async def serve(self, worker: Worker, lane: Lane) -> bool:
        """Handle batches until the lane is empty, or the gate is shut."""
        queue = lane.queue
        while queue:
            if (
                len(queue) < self._size
                and self.spec.handler.batch_wait > 0
                and not self.in_flight.stopping  # nothing more comes that would fill it
            ):
                await self._wait(self._filled, lane, self.spec.handler.batch_wait)
            if self.gate.shut and not self.gate.admit():
                self.ready.appendleft(lane)
                return True
            if queue and lane.part.suspects > 0 and self.crashes.is_suspect(lane.part, queue[0]):
                await self._handle_carefully(worker, lane, queue.popleft())
                continue
            deliveries = [queue.popleft() for _ in range(min(self._size, len(queue)))]
            if deliveries:
                self.gate.charge(len(deliveries) - 1)
                await self._handle(worker, lane, deliveries)
        return False

    async def _wait(self, waits: dict[Lane, asyncio.Future[None]], lane: Lane, seconds: float) -> None:
        """Wait until the time is over, or until somebody settles the future of the lane in ``waits``."""
        woken = waits[lane] = asyncio.get_running_loop().create_future()
        timer = self.clock.call_later(seconds, partial(settle, woken))
        try:
            await woken
        finally:
            timer.cancel()
            del waits[lane]

    async def _handle_carefully(self, worker: Worker, lane: Lane, delivery: Delivery) -> None:
        """Handle a record alone, since it may end the process; see :mod:`dimesh.bus.crashes`."""
        part = lane.part
        died = self.crashes.verdict(part, delivery)
        if died is not None:
            await self.finish_failed(part, delivery, died, part.attempts[delivery.offset])
            return
        async with self.crashes.careful(part, delivery):
            await self._handle(worker, lane, (delivery,))

    async def _handle(self, worker: Worker, lane: Lane, deliveries: Sequence[Delivery]) -> None:
        part = lane.part
        pairs = await self._events(part, deliveries)
        while pairs:
            error = await self._attempt(worker, part, pairs)
            if error is None:
                return
            first = pairs[0][0]
            attempts = self.failures.count(part, first)
            self.failures.report(first, error, attempts.failures)
            self.gate.failed(error)
            if part.revoked:
                self.in_flight.abandon(len(pairs))
                return
            if self.failures.is_final(error, attempts):
                await self._split(worker, part, pairs, error, attempts)
                return
            await self.failures.keep_attempts(part, first, attempts)
            if not self._leaves(part):
                await self._wait(self._pauses, lane, self.failures.delay(attempts))
            while not self._leaves(part) and self.gate.shut and not self.gate.admit():
                await self._wait(self._held, lane, FOREVER)
            if self._leaves(part):
                # What is behind these records is left with them: handling it now would break the order.
                self.in_flight.abandon(len(pairs) + len(lane.queue))
                lane.queue.clear()
                return

    async def _events(
        self, part: PartitionProgress, deliveries: Sequence[Delivery]
    ) -> list[tuple[Delivery, Event]]:
        """Return the events to hand over. Repeats, redrives for other groups and undecodable records are settled here."""
        pairs: list[tuple[Delivery, Event]] = []
        identities: set[str] = set()
        for delivery in deliveries:
            try:
                event = delivery.record.event
            except Exception as error:  # the bytes are not an event
                await self.finish_failed(part, delivery, error, self.failures.count(part, delivery))
                continue
            identity = identity_of(event)
            repeated = part.seen is not None and (identity in part.seen or identity in identities)
            if repeated and (
                h.REPLY_TO not in event.headers
                or identity in identities
                or await self.answers.again(identity, event)
            ):
                self.stats.duplicates += 1
            elif not self.is_for_us(event.headers):
                self.stats.skipped += 1
            else:
                identities.add(identity)
                pairs.append((delivery, event))
                continue
            self.in_flight.settle(part, delivery)
        return pairs

    async def _attempt(
        self, worker: Worker, part: PartitionProgress, pairs: Sequence[tuple[Delivery, Event]]
    ) -> BaseException | None:
        """Call the handler once. Return the error, or None when the call succeeded and everything is settled."""
        events = [
            without_engine_headers(event, self._keep_headers) if event.headers else event
            for _, event in pairs
        ]
        # Several events have no single cause to pass on.
        handling_event.set(events[0] if len(events) == 1 else None)
        handling_batch.set(events)
        try:
            worker.since = self.clock.monotonic()
            result = await self.call(events)
            worker.since = 0.0
            if worker.cancelled:
                raise asyncio.CancelledError
            if result.__class__ in NOT_RUN:
                raise not_run(self.spec.handler.name, result)
        except KeyboardInterrupt:
            raise
        except GeneratorExit:
            part.lanes[""].interrupted = [delivery for delivery, _ in pairs]
            raise
        except BaseException as caught:
            worker.since = 0.0
            return self.as_failure(worker, caught)
        observer = self.services.observer
        self.stats.handled += len(pairs)
        for delivery, event in pairs:
            identity = identity_of(event)
            if part.seen is not None:
                part.seen.add(identity)
            if event.headers and h.REPLY_TO in event.headers:
                await self.answers.give(identity, event, None)
            if observer is not None and observer.observes_delivered:
                notify(observer.delivered, self.spec.topic, self.spec.id, event)
            await self.failures.forget_attempts(part, delivery)
            self.in_flight.settle(part, delivery)
        return None

    async def _split(
        self,
        worker: Worker,
        part: PartitionProgress,
        pairs: Sequence[tuple[Delivery, Event]],
        error: BaseException,
        attempts: Attempts,
    ) -> None:
        if len(pairs) == 1:
            await self.finish_failed(part, pairs[0][0], error, attempts)
            return
        for index, pair in enumerate(pairs):
            if part.revoked:
                self.in_flight.abandon(len(pairs) - index)
                return
            alone = await self._attempt(worker, part, (pair,))
            if alone is not None:
                self.failures.report(pair[0], alone, attempts.failures + 1)
                self.gate.failed(alone)
                await self.finish_failed(
                    part, pair[0], alone, Attempts(attempts.failures + 1, attempts.first)
                )
