"""The workers of a subscription: they take lanes, call the handler, and see to what fails.

There is a fixed number of them, started as needed; no task is made for an event. A worker serves one lane at a time
and one record after the other. A record that failed is put back to the front of its lane, and the lane is parked
until the backoff is over: its order is kept and no worker waits.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from dimesh.bus import headers as h
from dimesh.bus.deadletter import Failure
from dimesh.bus.handler import Middleware, compose
from dimesh.bus.identity import identity_of
from dimesh.bus.production import producing
from dimesh.bus.progress import Lane, PartitionProgress
from dimesh.bus.threads import ThreadPool
from dimesh.capabilities import Capability
from dimesh.clock import Handle
from dimesh.errors import BusError, CodecError, DimeshError, StorageError
from dimesh.events.event import NO_HEADERS
from dimesh.spi.bus import Attempts, Delivery

if TYPE_CHECKING:
    from dimesh.bus.subscription import Subscription

log = logging.getLogger("dimesh.bus")


class Outcome(Enum):
    """What became of a record whose handler failed."""

    PARKED = "parked"
    SETTLED = "settled"
    LEFT_OPEN = "left open"


class Worker:
    """One worker's state."""

    __slots__ = ("since", "task", "timed_out", "waiter")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.waiter: asyncio.Future[None] | None = None
        self.since = 0.0
        """Monotonic time at which the running call of the handler began; 0: none runs."""
        self.timed_out = False


class Workers:
    """See the module."""

    def __init__(self, subscription: Subscription, middleware: Sequence[Middleware]) -> None:
        self.sub = subscription
        self.bus = subscription.bus
        self.ready: deque[Lane] = deque()
        self._idle: list[Worker] = []
        self._workers: list[Worker] = []
        self._watch_timer: Handle | None = None
        self._keeps_attempts = Capability.DURABLE_ATTEMPTS in self.bus.backend.capabilities
        handler = subscription.handler
        self._threads = None if handler.is_async else ThreadPool(handler.name)
        self.call: Callable[[Any], Awaitable[Any]] = self._compose(middleware)

    def _compose(self, middleware: Sequence[Middleware]) -> Callable[[Any], Awaitable[Any]]:
        function: Callable[[Any], Awaitable[Any]] = self.sub.handler.handler_func
        threads = self._threads
        if threads is not None:
            plain = self.sub.handler.handler_func

            async def in_thread(event: Any) -> Any:
                result = await threads.run(plain, event)
                # A plain function may hand back a coroutine (a lambda around an async one does).
                return await result if inspect.isawaitable(result) else result

            function = in_thread
        if self.sub.produce_to is not None:
            function = producing(self.bus, function)
        gate = self.bus.schema_gate
        if gate is None:
            return compose(function, middleware)
        inner = function

        async def validated(event: Any) -> Any:
            for one in event if isinstance(event, list) else (event,):
                await gate.check(one)
            return await inner(event)

        return compose(validated, middleware)

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to watch for calls that overrun their time."""
        if self.sub.options.handler_timeout is not None:
            self._arm_watch(self.sub.options.handler_timeout)

    async def stop(self) -> None:
        """Cancel what runs; a cancelled call is not done."""
        if self._watch_timer is not None:
            self._watch_timer.cancel()
        current = asyncio.current_task()
        tasks = [w.task for w in self._workers if w.task is not None and w.task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._threads is not None:
            self._threads.close()

    def put(self, part: PartitionProgress, deliveries: Sequence[Delivery]) -> None:
        """Sort records into the lanes of their keys and set workers on them."""
        lanes = part.lanes
        ready = self.ready
        for delivery in deliveries:
            key = delivery.record.key
            lane = lanes.get(key)
            if lane is None:
                lane = lanes[key] = Lane(part, key)
                ready.append(lane)
            lane.queue.append(delivery)
        self.wake()

    def wake(self) -> None:
        """As many workers as lanes are ready."""
        wanted = len(self.ready)
        while wanted and self._idle:
            waiter = self._idle.pop().waiter
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
            wanted -= 1
        while wanted and len(self._workers) < self.sub.options.concurrency:
            worker = Worker()
            self._workers.append(worker)
            worker.task = asyncio.create_task(self._work(worker), name=f"dimesh-worker-{self.sub.id}")
            worker.task.add_done_callback(report_death)
            wanted -= 1

    async def rest(self, worker: Worker) -> None:
        """Wait for work."""
        worker.waiter = asyncio.get_running_loop().create_future()
        self._idle.append(worker)
        await worker.waiter

    # -- handling --------------------------------------------------------------------------------

    async def _work(self, worker: Worker) -> None:
        ready = self.ready
        while True:
            while ready:
                lane = ready.popleft()
                part = lane.part
                part.running += 1
                parked = False
                try:
                    parked = await self.serve(worker, lane)
                finally:
                    part.running -= 1
                    if not parked:
                        part.lanes.pop(lane.key, None)
                    if part.left is not None and part.running == 0 and not part.left.done():
                        part.left.set_result(None)
            await self.rest(worker)

    async def serve(self, worker: Worker, lane: Lane) -> bool:
        """Handle the records of a lane until it is empty (False) or parked (True).

        The hot path: all that an event costs when all goes well is in this loop.
        """
        sub = self.sub
        part = lane.part
        queue = lane.queue
        seen = part.seen
        call = self.call
        stats = sub.stats
        monotonic = self.bus.clock.monotonic
        timed = sub.options.handler_timeout is not None
        tracks = sub.tracks
        settles = tracks or not sub.is_log
        observer = self.bus.observer
        while queue:
            delivery = queue.popleft()
            try:
                record = delivery.record
                event = record.decoded or record.event
                headers = event.headers
                plain = headers is NO_HEADERS
                identity = event.metadata.event_id if plain else identity_of(event)
                if seen is not None and (identity in seen.young or identity in seen.old):
                    stats.duplicates += 1
                elif not plain and not self.is_for_us(headers):
                    stats.skipped += 1
                else:
                    if timed:
                        worker.since = monotonic()
                    result = await call(event)
                    worker.since = 0.0
                    if worker.timed_out:
                        raise asyncio.CancelledError  # it swallowed the cancellation
                    if seen is not None:
                        seen.young.add(identity)
                        if len(seen.young) >= seen.size:
                            seen.turn()
                    stats.handled += 1
                    if result and sub.produce_to is not None:
                        part.outputs[delivery.offset] = result
                    if not plain and h.REPLY_TO in headers:
                        await self.bus.reply(event, result)
                    if observer is not None and observer.observes_delivered:
                        observer.delivered(sub.topic, sub.id, event)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as caught:
                worker.since = 0.0
                outcome = await self.on_failure(lane, delivery, self.as_failure(worker, caught))
                if outcome is Outcome.PARKED:
                    return True
                if outcome is Outcome.LEFT_OPEN:
                    # Whoever gets this record gets those behind it too: handling them now would break their order.
                    left = len(queue)
                    queue.clear()
                    sub.drop(left)
                    continue
            if part.attempts:
                await self.forget_attempts(part, delivery)
            sub.in_flight -= 1
            if settles:
                if tracks:
                    part.open.discard(delivery.offset)
                else:
                    sub.acks.append(delivery)
                sub.uncommitted += 1
                if sub.uncommitted >= sub.commit_every:
                    sub.uncommitted = 0
                    sub.commit_wanted.set()
            if sub.thresholds:
                sub.check_thresholds()
        return False

    def is_for_us(self, headers: Mapping[str, str | bytes]) -> bool:
        """False for an event that was redriven for another group."""
        target = headers.get(h.REDRIVE_GROUP)
        return target is None or target == (self.sub.group or "")

    def settle(self, part: PartitionProgress, delivery: Delivery) -> None:
        """The record is done (outside the hot path, which has this inline)."""
        sub = self.sub
        sub.in_flight -= 1
        if sub.tracks or not sub.is_log:
            if sub.tracks:
                part.open.discard(delivery.offset)
            else:
                sub.acks.append(delivery)
            sub.uncommitted += 1
            if sub.uncommitted >= sub.commit_every:
                sub.uncommitted = 0
                sub.commit_wanted.set()
        if sub.thresholds:
            sub.check_thresholds()

    # -- failing ---------------------------------------------------------------------------------

    def as_failure(self, worker: Worker, caught: BaseException) -> BaseException:
        """What to count the exception as. A cancellation from outside goes on: it is neither success nor failure."""
        task = asyncio.current_task()
        if worker.timed_out:
            worker.timed_out = False
            self.sub.stats.timeouts += 1
            if task is not None:
                task.uncancel()
            limit = self.sub.options.handler_timeout
            timeout = TimeoutError(f"the handler {self.sub.handler.name} took longer than {limit:g} s")
            return timeout.with_traceback(caught.__traceback__)
        if isinstance(caught, asyncio.CancelledError):
            if task is not None and task.cancelling():
                raise caught
            return BusError(f"the handler {self.sub.handler.name} cancelled itself").with_traceback(
                caught.__traceback__
            )
        return caught

    def count(self, part: PartitionProgress, delivery: Delivery) -> Attempts:
        """One more failed attempt."""
        before = part.attempts.get(delivery.offset)
        now = self.bus.clock.time()
        attempts = Attempts(before.failures + 1, before.first) if before else Attempts(1, now)
        part.attempts[delivery.offset] = attempts
        return attempts

    async def on_failure(self, lane: Lane, delivery: Delivery, error: BaseException) -> Outcome:
        """Park the lane for another attempt, or bury the record."""
        part = lane.part
        policy = self.sub.options.retry
        attempts = self.count(part, delivery)
        self.report(delivery, error, attempts.failures)
        if part.given_up:
            self.leave_open()
            return Outcome.LEFT_OPEN
        final = policy.is_fatal(error) or attempts.failures >= policy.attempts
        if final:
            return await self.bury(part, delivery, error, attempts)
        await self.keep_attempts(delivery, attempts)
        if self.sub.stopping and self.sub.comes_again:
            self.leave_open()
            return Outcome.LEFT_OPEN
        lane.queue.appendleft(delivery)

        def unpark() -> None:
            lane.timer = None
            self.ready.append(lane)
            self.wake()

        lane.timer = self.bus.clock.call_later(policy.delay(attempts.failures, self.bus.rng), unpark)
        return Outcome.PARKED

    def leave_open(self) -> None:
        """The record is no longer ours to finish: whoever has the partition next gets it."""
        self.sub.in_flight -= 1
        if self.sub.thresholds:
            self.sub.check_thresholds()

    async def bury(
        self, part: PartitionProgress, delivery: Delivery, error: BaseException, attempts: Attempts
    ) -> Outcome:
        """Append to the dead letters, however often it takes: the record counts as done only when it is there."""
        sub = self.sub
        failure = Failure(
            error,
            attempts.failures,
            attempts.first,
            self.bus.clock.time(),
            sub.topic,
            sub.group or "",
            sub.handler.name,
        )
        tries = 0
        while not part.given_up:
            try:
                await self.bus.dead_letter(sub.id, delivery, failure)
            except DimeshError as refused:
                tries += 1
                wait = sub.options.retry.delay(tries, self.bus.rng) + 0.1
                log.error("subscription %s: cannot dead-letter, again in %.1f s: %s", sub.id, wait, refused)
                await self.bus.clock.sleep(wait)
            else:
                sub.stats.dead_lettered += 1
                return Outcome.SETTLED
        self.leave_open()
        return Outcome.LEFT_OPEN

    def report(self, delivery: Delivery, error: BaseException, attempt: int) -> None:
        """Count a failure and tell the observer."""
        self.sub.stats.failed += 1
        log.debug("subscription %s: attempt %d failed", self.sub.id, attempt, exc_info=error)
        observer = self.bus.observer
        if observer is not None:
            try:
                event = delivery.record.event
            except CodecError:
                return
            observer.failed(self.sub.topic, self.sub.id, event, error, attempt)

    async def keep_attempts(self, delivery: Delivery, attempts: Attempts | None) -> None:
        """Make the count durable where the backend can. That it cannot right now stops nothing."""
        if not self._keeps_attempts or self.sub.group is None:
            return
        try:
            await self.sub.stream.save_attempts(delivery, attempts)
        except (BusError, StorageError) as error:
            log.warning("subscription %s: attempts not saved: %s", self.sub.id, error)

    async def forget_attempts(self, part: PartitionProgress, delivery: Delivery) -> None:
        """After success or burial."""
        if part.attempts.pop(delivery.offset, None) is not None:
            await self.keep_attempts(delivery, None)

    # -- overrunning calls -----------------------------------------------------------------------

    def _arm_watch(self, limit: float) -> None:
        # One timer for all workers instead of one for each call.
        def look() -> None:
            now = self.bus.clock.monotonic()
            for worker in self._workers:
                if worker.since and now - worker.since >= limit and not worker.timed_out:
                    worker.timed_out = True
                    if worker.task is not None:
                        worker.task.cancel()
            self._watch_timer = self.bus.clock.call_later(limit / 4, look)

        self._watch_timer = self.bus.clock.call_later(limit / 4, look)


def report_death(task: asyncio.Task[None]) -> None:
    """Say so when one of the engine's own tasks ends by an exception: that is a bug, and never silent."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("%s died of a bug in dimesh", task.get_name(), exc_info=error)
