"""The workers of a subscription: they take lanes, call the handler, and see to failures.

Their number is fixed, and they are started as needed; no task is created for an event. A worker serves one lane at a time,
one record after the other. A record that failed is put back to the front of its lane, and the lane is parked until the
backoff is over: the order is kept and no worker waits.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from enum import Enum
from typing import Any, Final

from dimesh.bus import headers as h
from dimesh.bus.callables import NOT_RUN, not_run
from dimesh.bus.crashes import Crashes
from dimesh.bus.dedup import identity_of
from dimesh.bus.door import without_engine_headers
from dimesh.bus.failures import Failures
from dimesh.bus.gate import Gate
from dimesh.bus.handler import Middleware, compose
from dimesh.bus.inflight import InFlight
from dimesh.bus.observer import observer_failed
from dimesh.bus.options import SubscriptionState, SubscriptionStats
from dimesh.bus.production import producing
from dimesh.bus.progress import Lane, PartitionProgress
from dimesh.bus.replies import REPLY_PREFIX, Answers
from dimesh.bus.services import Services
from dimesh.bus.spec import SubscriptionSpec
from dimesh.bus.threads import ThreadPool
from dimesh.clock import Handle
from dimesh.errors import BusError
from dimesh.events.current import handling_event
from dimesh.events.fields import NO_HEADERS
from dimesh.events.topics import DEAD_LETTER_SUFFIX
from dimesh.spi.bus import Attempts, Delivery, Stream
from dimesh.spi.interceptor import Handling
from dimesh.tasks import end_tasks, place_of

log = logging.getLogger("dimesh.bus")


class Outcome(Enum):
    """The outcome of a failed attempt for its record."""

    PARKED = "parked"
    SETTLED = "settled"
    ABANDONED = "abandoned"


class Worker:
    """The state of one worker."""

    __slots__ = ("cancelled", "since", "task", "timed_out", "waiter")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.waiter: asyncio.Future[None] | None = None
        self.since = 0.0
        """The monotonic time at which the running call of the handler started; 0: none runs."""
        self.cancelled = False
        """Whether the running call was cancelled. It has failed then, also if it swallows the cancellation and returns."""
        self.timed_out = False
        """Whether it was cancelled because it took too long; otherwise because the subscription ends."""

    @property
    def resting(self) -> bool:
        """Whether the worker waits for work."""
        return self.waiter is not None and not self.waiter.done()


_serving: Final[ContextVar[Worker | None]] = ContextVar("dimesh_serving", default=None)
"""The worker that runs this code; tasks and threads that a handler starts inherit it."""


class Workers:
    """The workers of one subscription; see the module."""

    def __init__(
        self,
        spec: SubscriptionSpec,
        services: Services,
        in_flight: InFlight,
        stats: SubscriptionStats,
        middleware: Sequence[Middleware],
        changed: Callable[[SubscriptionState, str], None],
    ) -> None:
        self.spec = spec
        self.services = services
        self.in_flight = in_flight
        self.stats = stats
        self.failures = Failures(spec, services, in_flight, stats)
        self.crashes = Crashes(spec, services, self.failures)
        self.clock = services.clock
        self.answers = Answers(services.replies)
        self.gate = Gate(spec.options, services.clock, stats, self.wake, changed)
        self.ready: deque[Lane] = deque()
        """The lanes that a worker may take; while the gate is shut, those that wait for it."""
        self._idle: list[Worker] = []
        self._workers: list[Worker] = []
        self._watch_timer: Handle | None = None
        self._keep_headers = _visible_headers(spec.topic)
        handler = spec.handler
        self._threads = None if handler.is_async else ThreadPool(handler.name)
        self.call: Callable[[Any], Awaitable[Any]] = self._compose(middleware)

    def _compose(self, middleware: Sequence[Middleware]) -> Callable[[Any], Awaitable[Any]]:
        spec = self.spec
        function: Callable[[Any], Awaitable[Any]] = spec.handler.handler_func
        threads = self._threads
        if threads is not None:
            plain = spec.handler.handler_func

            async def in_thread(event: Any) -> Any:
                result = await threads.run(plain, event)
                # A plain function may return a coroutine (a lambda around an async function does).
                return await result if inspect.isawaitable(result) else result

            function = in_thread
        batch = spec.handler.batch_size is not None
        handling = Handling(spec.topic, spec.id, spec.group, spec.handler.name, batch)
        function = self.services.interceptors.around_handler(handling, compose(function, middleware))
        if spec.produce_to is not None:
            function = producing(self.services.outgoing, spec.produce_to, function)
        return function

    # -- life ------------------------------------------------------------------------------------

    def start(self, stream: Stream) -> None:
        """Start watching for calls that take longer than their limit."""
        self.failures.start(stream)
        if self.spec.options.handler_timeout is not None:
            self._arm_watch(self.spec.options.handler_timeout)

    @property
    def serve_caller(self) -> bool:
        """Whether the running code was called by one of these workers that has not finished its call."""
        worker = _serving.get()
        return worker is not None and not worker.resting and worker in self._workers

    def hurry(self) -> None:
        """Stop waiting for more work: nothing more comes, or it is not wanted here."""

    def describe(self) -> str:
        """Return the names of the workers that run a call, each with the place where it waits."""
        return "; ".join(
            f"{w.task.get_name()} in {place_of(w.task)}"
            for w in self._workers
            if w.task is not None and not w.task.done() and not w.resting
        )

    async def stop(self) -> None:
        """Cancel the running calls; a cancelled call does not count as handled."""
        if self._watch_timer is not None:
            self._watch_timer.cancel()
        self.gate.close()
        for worker in self._workers:
            worker.cancelled = True
        await end_tasks([w.task for w in self._workers if w.task is not None])
        if self._threads is not None:
            self._threads.close()

    def put(self, part: PartitionProgress, deliveries: Sequence[Delivery]) -> None:
        """Sort records into the lanes of their keys, and wake workers for them."""
        lanes = part.lanes
        ready = self.ready
        if part.suspects > 0 or None in lanes:
            self._put_carefully(part, deliveries)
            return
        for delivery in deliveries:
            key = delivery.record.key
            lane = lanes.get(key)
            if lane is None:
                lane = lanes[key] = Lane(part, key)
                ready.append(lane)
            lane.queue.append(delivery)
        self.wake()

    def wake(self) -> None:
        """Wake or start as many workers as lanes are ready."""
        if self.gate.shut and self.gate.blocks():
            return
        wanted = len(self.ready)
        while wanted and self._idle:
            waiter = self._idle.pop().waiter
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
            wanted -= 1
        while wanted and len(self._workers) < self.spec.options.concurrency:
            worker = Worker()
            self._workers.append(worker)
            worker.task = asyncio.create_task(self._work(worker), name=f"dimesh-worker-{self.spec.id}")
            worker.task.add_done_callback(report_death)
            wanted -= 1

    async def rest(self, worker: Worker) -> None:
        """Wait for work."""
        worker.waiter = asyncio.get_running_loop().create_future()
        self._idle.append(worker)
        await worker.waiter

    # -- handling --------------------------------------------------------------------------------

    async def _work(self, worker: Worker) -> None:
        _serving.set(worker)
        ready = self.ready
        gate = self.gate
        while True:
            while not (gate.shut and gate.blocks()) and ready:
                lane = ready.popleft()
                part = lane.part
                part.running += 1
                parked = False
                try:
                    if lane.key is None:
                        await self._serve_carefully(worker, lane)
                    else:
                        parked = await self.serve(worker, lane)
                except GeneratorExit:
                    if not _is_running(worker):
                        raise  # the coroutine itself is closed
                    worker.since = 0.0
                    parked = await self.resume(lane)
                finally:
                    handling_event.set(None)
                    part.running -= 1
                    if not parked:
                        part.lanes.pop(lane.key, None)
                    if part.drained is not None and part.running == 0 and not part.drained.done():
                        part.drained.set_result(None)
            await self.rest(worker)

    async def serve(self, worker: Worker, lane: Lane) -> bool:
        """Handle the records of a lane; return False when it is empty, True when it is parked or the gate is shut.

        This is the hot path: all that an event costs when all goes well is in this loop.
        """
        spec = self.spec
        in_flight = self.in_flight
        part = lane.part
        queue = lane.queue
        seen = part.seen
        call = self.call
        stats = self.stats
        monotonic = self.clock.monotonic
        set_event = handling_event.set
        timed = spec.options.handler_timeout is not None
        tracks = spec.tracks
        settles = tracks or not spec.is_log
        produces = spec.produce_to is not None
        commit_every = spec.commit_every
        observer = self.services.observer
        agent = pillar = None
        sender = ""
        gate = self.gate
        while queue:
            if gate.shut and not gate.admit():
                self.ready.appendleft(lane)
                return True
            delivery = queue.popleft()
            try:
                record = delivery.record
                event = record.decoded or record.event
                headers = event.headers
                plain = headers is NO_HEADERS
                if plain:
                    metadata = event.metadata
                    if metadata.source_agent != agent or metadata.source_pillar != pillar:
                        agent, pillar = metadata.source_agent, metadata.source_pillar
                        sender = f"{pillar}\0{agent}\0"
                    # identity_of, spelled out: one key is usually one sender.
                    identity = sender + metadata.event_id
                else:
                    identity = identity_of(event)
                if (
                    seen is not None
                    and (identity in seen.young or identity in seen.old)
                    and (plain or h.REPLY_TO not in headers or await self.answers.again(identity, event))
                ):
                    stats.duplicates += 1
                elif not plain and not self.is_for_us(headers):
                    stats.skipped += 1
                else:
                    given = event if plain else without_engine_headers(event, self._keep_headers)
                    set_event(given)
                    if timed:
                        worker.since = monotonic()
                    result = await call(given)
                    worker.since = 0.0
                    if worker.cancelled:
                        raise asyncio.CancelledError  # the handler swallowed the cancellation
                    if result is not None and result.__class__ in NOT_RUN:
                        raise not_run(spec.handler.name, result)
                    if seen is not None:
                        seen.young.add(identity)
                        if len(seen.young) >= seen.size:
                            seen.turn()
                    stats.handled += 1
                    if result and produces:
                        part.produced[delivery.offset] = (delivery, result)
                    if not plain and h.REPLY_TO in headers:
                        await self.answers.give(identity, event, None if produces else result)
                    if observer is not None and observer.observes_delivered:
                        try:
                            observer.delivered(spec.topic, spec.id, event)
                        except (Exception, SystemExit) as failed:
                            observer_failed(failed)
            except KeyboardInterrupt:
                raise
            except GeneratorExit:
                lane.interrupted = (delivery,)
                raise
            except BaseException as caught:  # sys.exit in a handler, too, is a failure of its event
                worker.since = 0.0
                outcome = await self.on_failure(lane, delivery, self.as_failure(worker, caught))
                if outcome is Outcome.PARKED:
                    return True
                if outcome is Outcome.ABANDONED:
                    # The next member that gets this record gets those behind it, too: handling them now would break their
                    # order.
                    left = len(queue)
                    queue.clear()
                    in_flight.abandon(left)
                    continue
            if part.attempts:
                await self.failures.forget_attempts(part, delivery)
            in_flight.count -= 1
            if settles:
                if tracks:
                    part.pending.discard(delivery.offset)
                else:
                    in_flight.acks.append(delivery)
                in_flight.uncommitted += 1
                if in_flight.uncommitted >= commit_every:
                    in_flight.uncommitted = 0
                    in_flight.commit_wanted.set()
            if in_flight.count < in_flight.alarm:
                in_flight.check_thresholds()
        return False

    def _put_carefully(self, part: PartitionProgress, deliveries: Sequence[Delivery]) -> None:
        lane = part.lanes.get(None)
        if lane is None and deliveries:
            lane = part.lanes[None] = Lane(part, None)
            self.ready.append(lane)
        if lane is not None:
            lane.queue.extend(deliveries)
        self.wake()

    async def resume(self, lane: Lane) -> bool:
        """Count a failure of records whose handler was ended by GeneratorExit; return what :meth:`serve` returns.

        A handler that awaits a future with this exception closes all coroutines up to that of the worker, which alone goes on. So
        this cannot be done where the handler was called.
        """
        part = lane.part
        served = next((each for each in part.lanes.values() if each.interrupted), lane)
        (first, *others), served.interrupted = served.interrupted, ()
        served.queue.extendleft(reversed(others))
        error = RuntimeError(f"the handler {self.spec.handler.name} was ended by GeneratorExit")
        outcome = await self.on_failure(served, first, error)
        if outcome is Outcome.SETTLED:
            await self.failures.forget_attempts(part, first)
            self.in_flight.settle(part, first)
        elif outcome is Outcome.ABANDONED:
            self.in_flight.abandon(len(lane.queue))
            lane.queue.clear()
        if served is not lane:  # a record that was handled with care
            if outcome is not Outcome.PARKED:
                part.lanes.pop(served.key, None)
        elif outcome is Outcome.PARKED:
            return True
        if lane.queue:
            self.ready.append(lane)
        return bool(lane.queue)

    async def _serve_carefully(self, worker: Worker, lane: Lane) -> None:
        """Handle records one at a time, of which one may end the process; see :mod:`dimesh.bus.crashes`."""
        part = lane.part
        queue = lane.queue
        while queue:
            if not self.crashes.is_suspect(part, queue[0]):
                rest = tuple(queue)
                queue.clear()
                del part.lanes[None]
                self.put(part, rest)
                return
            delivery = queue.popleft()
            key = delivery.record.key
            parked = part.lanes.get(key)
            if parked is not None:  # an earlier record of the key waits for its next attempt
                parked.queue.append(delivery)
                continue
            own = part.lanes[key] = Lane(part, key)
            died = self.crashes.verdict(part, delivery)
            if died is not None:
                await self.finish_failed(part, delivery, died, part.attempts[delivery.offset])
                del part.lanes[key]
                continue
            own.queue.append(delivery)
            async with self.crashes.careful(part, delivery):
                parked_now = await self.serve(worker, own)
                left = not parked_now and delivery.offset in part.pending
                if not parked_now:
                    del part.lanes[key]
            if left:  # to the next member: so is what is behind it
                self.in_flight.abandon(len(queue))
                queue.clear()

    def is_for_us(self, headers: Mapping[str, str | bytes]) -> bool:
        """Return False for an event that was redriven for another group."""
        target = headers.get(h.REDRIVE_GROUP)
        return target is None or target == (self.spec.group or "")

    # -- failing ---------------------------------------------------------------------------------

    def as_failure(self, worker: Worker, caught: BaseException) -> BaseException:
        """Return the error to count. A cancellation from outside is raised again: it is neither a success nor a failure."""
        if worker.cancelled and not worker.timed_out:
            # The subscription has ended. A call that is left behind is destroyed with its event loop: GeneratorExit.
            raise caught if isinstance(caught, GeneratorExit) else asyncio.CancelledError from caught
        task = asyncio.current_task()
        if worker.timed_out:
            worker.timed_out = worker.cancelled = False
            self.stats.timeouts += 1
            if task is not None:
                task.uncancel()
            limit = self.spec.options.handler_timeout
            timeout = TimeoutError(f"the handler {self.spec.handler.name} took longer than {limit:g} s")
            return timeout.with_traceback(caught.__traceback__)
        if isinstance(caught, asyncio.CancelledError):
            if task is not None and task.cancelling():
                raise caught
            return BusError(f"the handler {self.spec.handler.name} cancelled itself").with_traceback(
                caught.__traceback__
            )
        return caught

    async def on_failure(self, lane: Lane, delivery: Delivery, error: BaseException) -> Outcome:
        """Park the lane for another attempt, or set the record aside, also if the code for that fails."""
        try:
            return await self._retry(lane, delivery, error)
        except Exception:  # nothing below should raise: without this last resort the group would stop
            log.critical(
                "subscription %s: a failure could not be handled as it should", self.spec.id, exc_info=True
            )
            attempts = lane.part.attempts.get(delivery.offset) or Attempts(1, self.clock.time())
            return await self._set_aside(lane.part, delivery, error, attempts)

    async def _retry(self, lane: Lane, delivery: Delivery, error: BaseException) -> Outcome:
        part = lane.part
        failures = self.failures
        attempts = failures.count(part, delivery)
        failures.report(delivery, error, attempts.failures)
        self.gate.failed(error)
        if part.revoked:
            self.in_flight.abandon()
            return Outcome.ABANDONED
        if failures.is_final(error, attempts):
            return await self._set_aside(part, delivery, error, attempts)
        await failures.keep_attempts(part, delivery, attempts)
        if self.in_flight.stopping and self.spec.comes_again:
            self.in_flight.abandon()
            return Outcome.ABANDONED
        delay = failures.delay(attempts)
        lane.queue.appendleft(delivery)

        def unpark() -> None:
            lane.timer = None
            self.ready.append(lane)
            self.wake()

        lane.timer = self.clock.call_later(delay, unpark)
        return Outcome.PARKED

    async def _set_aside(
        self, part: PartitionProgress, delivery: Delivery, error: BaseException, attempts: Attempts
    ) -> Outcome:
        if await self.failures.set_aside(part, delivery, error, attempts):
            return Outcome.SETTLED
        self.in_flight.abandon()
        return Outcome.ABANDONED

    async def finish_failed(
        self, part: PartitionProgress, delivery: Delivery, error: BaseException, attempts: Attempts
    ) -> None:
        """Set a record aside that is not tried again, and count it as finished."""
        if await self._set_aside(part, delivery, error, attempts) is Outcome.SETTLED:
            await self.failures.forget_attempts(part, delivery)
            self.in_flight.settle(part, delivery)

    # -- overrunning calls -----------------------------------------------------------------------

    def _arm_watch(self, limit: float) -> None:
        # One timer for all workers instead of one for each call.
        def check() -> None:
            now = self.clock.monotonic()
            for worker in self._workers:
                if worker.since and now - worker.since >= limit and not worker.timed_out:
                    worker.timed_out = worker.cancelled = True
                    if worker.task is not None:
                        worker.task.cancel()
            self._watch_timer = self.clock.call_later(limit / 4, check)

        self._watch_timer = self.clock.call_later(limit / 4, check)


def _visible_headers(topic: str) -> str | None:
    """Return the beginning of the names of the engine's headers that handlers of a topic see; None: they see none."""
    if topic.endswith(DEAD_LETTER_SUFFIX):
        return h.DLQ_PREFIX  # subscribers of dead letters read there why an event failed
    return h.REPLY if topic.startswith(REPLY_PREFIX) else None


def _is_running(worker: Worker) -> bool:
    try:
        return asyncio.current_task() is worker.task
    except RuntimeError:  # no event loop runs
        return False


def report_death(task: asyncio.Task[None]) -> None:
    """Log that one of the engine's own tasks ended by an exception: that is a bug, and never silent."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("%s died of a bug in dimesh", task.get_name(), exc_info=error)
