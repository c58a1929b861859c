"""Workers for handlers that take a list of events.

A batch is cut from one partition, in order. It is tried as a whole; when its attempts are used up it is taken apart
and each event tried once alone, so that one bad event is dead-lettered and the others are handled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from dimesh.bus.futures import settle
from dimesh.bus.handler import Middleware
from dimesh.bus.identity import identity_of
from dimesh.bus.progress import Lane, PartitionProgress
from dimesh.bus.workers import Outcome, Worker, Workers
from dimesh.errors import CodecError, ConfigurationError
from dimesh.events.event import Event
from dimesh.spi.bus import Attempts, Delivery

if TYPE_CHECKING:
    from dimesh.bus.subscription import Subscription


class BatchWorkers(Workers):
    """See the module. A lane is a whole partition here."""

    def __init__(self, subscription: Subscription, middleware: Sequence[Middleware]) -> None:
        if middleware:
            raise ConfigurationError("middleware works on single events; it cannot go with batch_size")
        super().__init__(subscription, middleware)
        self._size = subscription.handler.batch_size or 1
        self._filled: dict[Lane, asyncio.Future[None]] = {}

    def put(self, part: PartitionProgress, deliveries: Sequence[Delivery]) -> None:
        """All into the partition's one lane."""
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

    async def serve(self, worker: Worker, lane: Lane) -> bool:
        """Handle batches until the lane is empty."""
        queue = lane.queue
        while queue:
            if len(queue) < self._size and self.sub.handler.batch_wait > 0:
                await self._fill(lane)
            deliveries = [queue.popleft() for _ in range(min(self._size, len(queue)))]
            if deliveries:
                await self._handle(worker, lane.part, deliveries)
        return False

    async def _fill(self, lane: Lane) -> None:
        filled = self._filled[lane] = asyncio.get_running_loop().create_future()
        timer = self.bus.clock.call_later(self.sub.handler.batch_wait, partial(settle, filled))
        try:
            await filled
        finally:
            timer.cancel()
            del self._filled[lane]

    async def _handle(self, worker: Worker, part: PartitionProgress, deliveries: Sequence[Delivery]) -> None:
        pairs = await self._events(part, deliveries)
        policy = self.sub.options.retry
        while pairs:
            error = await self._attempt(worker, part, pairs)
            if error is None:
                return
            first = pairs[0][0]
            attempts = self.count(part, first)
            self.report(first, error, attempts.failures)
            if part.given_up:
                for _ in pairs:
                    self.leave_open()
                return
            if policy.is_fatal(error) or attempts.failures >= policy.attempts:
                await self._take_apart(worker, part, pairs, error, attempts)
                return
            await self.keep_attempts(first, attempts)
            await self.bus.clock.sleep(policy.delay(attempts.failures, self.bus.rng))

    async def _events(
        self, part: PartitionProgress, deliveries: Sequence[Delivery]
    ) -> list[tuple[Delivery, Event]]:
        """Those to hand over; repeats, foreign redrives and undecodable records are settled here."""
        pairs: list[tuple[Delivery, Event]] = []
        ids: set[str] = set()
        for delivery in deliveries:
            try:
                event = delivery.record.event
            except CodecError as error:
                await self._bury(part, delivery, error, self.count(part, delivery))
                continue
            identity = identity_of(event)
            if part.seen is not None and (identity in part.seen or identity in ids):
                self.sub.stats.duplicates += 1
            elif not self.is_for_us(event.headers):
                self.sub.stats.skipped += 1
            else:
                ids.add(identity)
                pairs.append((delivery, event))
                continue
            self.settle(part, delivery)
        return pairs

    async def _attempt(
        self, worker: Worker, part: PartitionProgress, pairs: Sequence[tuple[Delivery, Event]]
    ) -> BaseException | None:
        """Call the handler once; None when it succeeded and everything is settled."""
        try:
            worker.since = self.bus.clock.monotonic()
            await self.call([event for _, event in pairs])
            worker.since = 0.0
            if worker.timed_out:
                raise asyncio.CancelledError
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as caught:
            worker.since = 0.0
            return self.as_failure(worker, caught)
        observer = self.bus.observer
        self.sub.stats.handled += len(pairs)
        for delivery, event in pairs:
            if part.seen is not None:
                part.seen.add(identity_of(event))
            if observer is not None and observer.observes_delivered:
                observer.delivered(self.sub.topic, self.sub.id, event)
            await self.forget_attempts(part, delivery)
            self.settle(part, delivery)
        return None

    async def _take_apart(
        self,
        worker: Worker,
        part: PartitionProgress,
        pairs: Sequence[tuple[Delivery, Event]],
        error: BaseException,
        attempts: Attempts,
    ) -> None:
        if len(pairs) == 1:
            await self._bury(part, pairs[0][0], error, attempts)
            return
        for index, pair in enumerate(pairs):
            if part.given_up:
                for _ in pairs[index:]:
                    self.leave_open()
                return
            alone = await self._attempt(worker, part, (pair,))
            if alone is not None:
                self.report(pair[0], alone, attempts.failures + 1)
                await self._bury(part, pair[0], alone, Attempts(attempts.failures + 1, attempts.first))

    async def _bury(
        self, part: PartitionProgress, delivery: Delivery, error: BaseException, attempts: Attempts
    ) -> None:
        if await self.bury(part, delivery, error, attempts) is Outcome.SETTLED:
            await self.forget_attempts(part, delivery)
            self.settle(part, delivery)
