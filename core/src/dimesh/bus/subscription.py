"""A subscription: receives records, hands them to its workers, and gives its partitions up in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from dimesh.bus.batches import BatchWorkers
from dimesh.bus.commits import Committer
from dimesh.bus.dedup import identity_of
from dimesh.bus.failures import unmarked
from dimesh.bus.handler import Middleware
from dimesh.bus.inflight import InFlight, settle
from dimesh.bus.options import SubscriptionState, SubscriptionStats
from dimesh.bus.progress import PartitionProgress
from dimesh.bus.retry import BACKOFF
from dimesh.bus.services import Services
from dimesh.bus.spec import SubscriptionSpec
from dimesh.bus.workers import Workers, report_death
from dimesh.errors import CodecError, NotOfferedError, PositionLostError, TopicNotFoundError
from dimesh.printable import printable_error
from dimesh.spi.bus import EVERYTHING, Batch, Delivery, Start, Stream, Subscribe
from dimesh.tasks import END_LIMIT, end_tasks, finish

log = logging.getLogger("dimesh.bus")

REPORT_EVERY: Final = 60.0
"""The seconds between two reports of a revocation that waits for a handler without a time limit."""


class Subscription:
    """One open subscription. Made by :meth:`EventBus.subscribe`."""

    def __init__(
        self,
        spec: SubscriptionSpec,
        services: Services,
        start: Start,
        reset: bool,
        middleware: Sequence[Middleware],
    ) -> None:
        self.spec = spec
        self.stats = SubscriptionStats()
        self.parts: dict[int, PartitionProgress] = {}
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the stream ended by itself, as when the topic was deleted."""
        self.stream: Stream
        self.in_flight = InFlight(spec)
        self._services = services
        self._clock = services.clock
        self._request = Subscribe(
            spec.topic,
            spec.group,
            spec.id,
            start,
            reset,
            # What is not an event has no type that a backend could filter by.
            spec.handler.filter if spec.options.foreign is None else EVERYTHING,
            spec.transactions,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._reading = True
        self._stopping: asyncio.Task[None] | None = None
        kind = Workers if spec.handler.batch_size is None else BatchWorkers
        self._workers = kind(spec, services, self.in_flight, self.stats, middleware, self._changed)
        self._commits = Committer(
            spec,
            services,
            self.in_flight,
            self.stats,
            self.parts,
            self._workers.failures,
            self._workers.crashes,
        )

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the stream and start receiving."""
        self.stream = await self._services.door.subscribe(self._request, self)
        self._commits.start(self.stream)
        self._tasks = [
            asyncio.create_task(self._pump(), name=f"dimesh-pump-{self.spec.id}"),
            asyncio.create_task(self._commits.run(), name=f"dimesh-commit-{self.spec.id}"),
        ]
        for task in self._tasks:
            task.add_done_callback(report_death)
        self._workers.start(self.stream)

    @property
    def calls_us(self) -> bool:
        """Whether the running code was called by a handler of this subscription that has not returned: waiting for the end of
        the subscription there would be waiting for itself.
        """
        return self._workers.serve_caller

    def stop(self, timeout: float) -> asyncio.Task[None]:
        """Start to leave, once, and return the task that does it: what was received is handled and committed.

        A batch that is filling is handed over as it is. Where no position is kept that a successor could continue from,
        everything that was published before this call is handled as well. What is not handled after ``timeout`` seconds is
        cancelled and not committed. Each later step has a bound, too (see :mod:`dimesh.tasks`).
        """
        if self._stopping is None:
            self.in_flight.stopping = True
            self._stopping = asyncio.create_task(self._stop(timeout), name=f"dimesh-stop-{self.spec.id}")
        return self._stopping

    async def _stop(self, timeout: float) -> None:
        in_flight = self.in_flight
        late: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(timeout, partial(settle, late))
        only_received = self.spec.comes_again
        try:
            if only_received:
                self._stop_reading()
                # What waits for another attempt is delivered to the next member: it is not worth waiting for.
                in_flight.abandon(sum(part.drop_parked() for part in self.parts.values()))
            if self._workers.gate.resting and (only_received or self.stats.state is SubscriptionState.PAUSED):
                # Nor is what waits for the end of a pause.
                in_flight.abandon(sum(part.drop_waiting() for part in self.parts.values()))
                self._stop_reading()
                only_received = True
            self._workers.hurry()
            while not late.done():
                if in_flight.count:
                    await in_flight.below(1, late)
                elif only_received or self.finished.done() or self.stream.caught_up():
                    break
                else:
                    await asyncio.sleep(0.001)  # the pump is between two receives
        finally:
            timer.cancel()
            unhandled = in_flight.count
            await self._leave()
        if unhandled:
            log.warning(
                "subscription %s of topic %s: %d events were not handled within %g s of closing%s",
                self.spec.id,
                self.spec.topic,
                unhandled,
                timeout,
                "; the next member of the group gets them" if self.spec.group else " and are lost to it",
            )

    def _stop_reading(self) -> None:
        self._reading = False
        self._tasks[0].cancel()

    async def caught_up(self) -> None:
        """Return when everything that was published before the call is handled."""
        while not self.finished.done():
            if self.in_flight.count:
                await self.in_flight.below(1, self.finished)
            elif self.stream.caught_up():
                return
            else:
                await asyncio.sleep(0.001)

    async def _leave(self) -> None:
        self._commits.stop()
        for part in self.parts.values():
            part.revoke()
        self._reading = False
        name = f"subscription {self.spec.id}"
        try:
            await end_tasks(self._tasks)
            await self._workers.stop()
            await finish(self._commits.commit(), f"the last commit of {name}", END_LIMIT)
            left = tuple(self.parts.values())
            await finish(self._workers.crashes.end(left), f"the last writes of {name}", END_LIMIT)
        except Exception as error:
            log.warning("%s: the last commit failed: %s", name, printable_error(error))
        finally:
            await finish(self.stream.close(), f"closing the stream of {name}")

    # -- flow ------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Start no more calls of the handler until :meth:`resume`."""
        self._workers.gate.pause()

    def resume(self) -> None:
        """Start calls of the handler again."""
        self._workers.gate.resume()

    def _changed(self, state: SubscriptionState, reason: str) -> None:
        stopped = state in (SubscriptionState.OPEN, SubscriptionState.PAUSED)
        level = logging.WARNING if stopped else logging.INFO
        log.log(level, "subscription %s of %s is %s: %s", self.spec.id, self.spec.topic, state, reason)
        self._services.status.report(self.spec, state, reason)

    # -- partitions (the backend calls these) ----------------------------------------------------

    async def assigned(self, partitions: Mapping[int, int]) -> None:
        """Take over partitions. The identities handled last are read back from the log, so that repeats are recognised."""
        window = self.spec.options.dedup_window
        for number, offset in partitions.items():
            part = PartitionProgress(number, offset, window)
            if window and self.spec.group is not None and offset > 0:
                await self._look_back(part, window)
            self.parts[number] = part

    async def _look_back(self, part: PartitionProgress, window: int) -> None:
        assert part.seen is not None
        start = {part.number: max(part.committed - window, 0)}
        try:
            handled = await self._services.door.read(self.spec.topic, start, window)
        except (NotOfferedError, TopicNotFoundError, PositionLostError):
            return
        for delivery in handled:
            if delivery.offset < part.committed:
                try:
                    part.seen.add(identity_of(delivery.record.event))
                except CodecError:
                    continue

    async def revoked(self, partitions: Sequence[int]) -> None:
        """Finish the running calls, drop what was not started, commit.

        A call that goes on for longer than ``handler_timeout`` allows is given up and logged: its partition goes to another
        member, and its event may be handled twice. Where a handler has no limit, the wait has none either, and is logged.
        """
        parts = [self.parts[number] for number in partitions if number in self.parts]
        for part in parts:
            self.in_flight.abandon(part.revoke())
        self._workers.hurry()
        await self._drain([part for part in parts if part.running])
        try:
            await self._commits.commit()
        except Exception as error:
            log.warning(
                "subscription %s: the commit at a revocation failed: %s", self.spec.id, printable_error(error)
            )
        await finish(
            self._workers.crashes.end(parts), f"the last writes of subscription {self.spec.id}", END_LIMIT
        )
        for part in parts:
            if self.parts.get(part.number) is part:  # it may have been lost meanwhile, and assigned anew
                del self.parts[part.number]

    async def _drain(self, parts: Sequence[PartitionProgress]) -> None:
        """Wait until no worker serves these partitions any more, within the bound of :meth:`revoked`."""
        running: set[asyncio.Future[None]] = set()
        for part in parts:
            if part.drained is None:
                part.drained = asyncio.get_running_loop().create_future()
            running.add(part.drained)
        limit = self.spec.options.handler_timeout
        # The limit of a call is checked every quarter of it; then the call is cancelled, and needs time to end.
        wait = REPORT_EVERY if limit is None else limit * 1.25 + END_LIMIT
        while running:
            _, running = await asyncio.wait(running, timeout=wait)
            if running:
                log.warning(
                    "subscription %s of topic %s gives partitions up, and after %g s handlers still run%s: %s",
                    self.spec.id,
                    self.spec.topic,
                    wait,
                    "; they have no time limit (handler_timeout), so they are waited for"
                    if limit is None
                    else "; they are not waited for any longer, and their events may be handled twice",
                    self._workers.describe(),
                )
                if limit is not None:
                    return

    def lost(self, partitions: Sequence[int]) -> None:
        """Drop everything of these partitions, since another member has them already."""
        for number in partitions:
            part = self.parts.pop(number, None)
            if part is not None:
                self.in_flight.abandon(part.revoke())
                log.warning(
                    "subscription %s lost partition %d of %s to another member; events whose handlers run now may be "
                    "handled twice",
                    self.spec.id,
                    number,
                    self.spec.topic,
                )

    # -- receiving -------------------------------------------------------------------------------

    async def _pump(self) -> None:
        maximum = self.spec.options.max_in_flight
        in_flight = self.in_flight
        errors = 0
        while True:
            room = maximum - in_flight.count
            if room <= 0:
                await in_flight.below(max(maximum * 3 // 4, 1))
                continue
            try:
                batches = await self.stream.receive(room)
            except PositionLostError as error:
                self.stats.gaps += 1
                log.warning(
                    "subscription %s: events were removed before they were read: %s", self.spec.id, error
                )
                continue
            except Exception as error:  # a backend may raise anything: the group goes on when it works again
                errors += 1
                wait = BACKOFF.delay(errors, self._services.rng)
                log.warning(
                    "subscription %s: reading failed, next attempt in %.1f s: %s",
                    self.spec.id,
                    wait,
                    printable_error(error),
                )
                await self._clock.sleep(wait)
                continue
            if not self._reading:
                return  # the stream swallowed the cancellation; what it returned was not accepted, and comes again
            errors = 0
            if not batches:
                if not self.finished.done():
                    self.finished.set_result(None)
                return
            if self.spec.counts_deaths and any(map(self._shows_more, batches)):
                batches = await self._looked_at(batches)
            for batch in batches:
                self._accept(batch)

    def _shows_more(self, batch: Batch) -> bool:
        """Return whether a batch may show that a member died, or is the first of its partition."""
        part = self.parts.get(batch.partition)
        return part is not None and bool(batch.deliveries) and (bool(batch.attempts) or not part.began)

    async def _looked_at(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Let the batches be examined for traces of members that died. Return those that are still wanted."""
        in_flight = self.in_flight
        held = sum(len(batch.deliveries) for batch in batches)
        in_flight.count += held  # they are received, and not finished
        before = [self.parts.get(batch.partition) for batch in batches]
        try:
            for batch, part in zip(batches, before, strict=True):
                if part is not None and self._shows_more(batch):
                    await self._workers.crashes.look(part, batch)
        finally:
            in_flight.abandon(held)
        # A partition may have been lost meanwhile, and perhaps assigned anew.
        return [b for b, part in zip(batches, before, strict=True) if self.parts.get(b.partition) is part]

    def _accept(self, batch: Batch) -> None:
        spec = self.spec
        part = self.parts.get(batch.partition)
        if spec.is_log and (part is None or part.revoked):
            return  # given up in between: its next owner gets these records
        if part is None:
            part = self.parts[batch.partition] = PartitionProgress(
                batch.partition, batch.next_offset, spec.options.dedup_window
            )
        deliveries = batch.deliveries
        if spec.options.foreign is not None:
            deliveries = [spec.options.foreign.read(spec.topic, delivery) for delivery in deliveries]
        if spec.filters:
            deliveries = self._wanted(deliveries)
        part.next_offset = batch.next_offset
        if batch.attempts:
            real = ((offset, unmarked(kept)) for offset, kept in batch.attempts.items())
            part.attempts.update((offset, attempts) for offset, attempts in real if attempts is not None)
        if spec.tracks:
            part.pending.update([d.offset for d in deliveries])
        self.stats.received += len(deliveries)
        self.in_flight.count += len(deliveries)
        self._workers.put(part, deliveries)
        self._commits.schedule()

    def _wanted(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        wants = self.spec.handler.filter.wants
        chosen: list[Delivery] = []
        for delivery in deliveries:
            record = delivery.record
            if wants(record.event_type, record.pillar, record.priority):
                chosen.append(delivery)
            elif not self.spec.is_log:
                self.in_flight.acks.append(delivery)
        return chosen
