"""A subscription: it receives, hands records to its workers, keeps track of what is done, and commits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from dimesh.bus.batches import BatchWorkers
from dimesh.bus.futures import settle
from dimesh.bus.handler import EventHandler, Middleware
from dimesh.bus.identity import identity_of
from dimesh.bus.options import SubscriptionOptions, SubscriptionStats
from dimesh.bus.production import INTERVAL
from dimesh.bus.progress import PartitionProgress
from dimesh.bus.retry import RetryPolicy
from dimesh.bus.workers import Workers, report_death
from dimesh.capabilities import Capability
from dimesh.clock import Handle
from dimesh.errors import (
    BusError,
    CodecError,
    DimeshError,
    FencedError,
    NotOfferedError,
    PositionLostError,
    StorageError,
    TopicNotFoundError,
)
from dimesh.spi.bus import Batch, Delivery, Start, Stream, Subscribe, TransactionalStream

if TYPE_CHECKING:
    from dimesh.bus.engine import EventBus

log = logging.getLogger("dimesh.bus")

NEVER: Final = 1 << 62
BACKOFF: Final = RetryPolicy(base=0.2, maximum=10.0)


class Subscription:
    """One open subscription. Made by :meth:`EventBus.subscribe`."""

    def __init__(
        self,
        bus: EventBus,
        subscription_id: str,
        topic: str,
        group: str | None,
        handler: EventHandler,
        start: Start,
        reset: bool,
        produce_to: str | None,
        options: SubscriptionOptions,
        middleware: Sequence[Middleware],
    ) -> None:
        self.id = subscription_id
        self.topic = topic
        self.group = group
        self.handler = handler
        self.options = options
        self.stats = SubscriptionStats()
        self.bus = bus
        backend = bus.backend
        self.is_log = backend.family == "log"
        self.tracks = group is not None and self.is_log
        """Whether offsets are committed: there is a group to keep them for."""
        self.commit_every = backend.commit_every or NEVER
        self.produce_to = produce_to
        self._transactions = produce_to is not None and Capability.TRANSACTIONS in backend.capabilities
        self._interval = (
            backend.commit_interval if produce_to is None else min(backend.commit_interval, INTERVAL)
        )
        self.in_flight = 0
        """Records received and not done."""
        self.uncommitted = 0
        """Records done since the last commit."""
        self.acks: list[Delivery] = []
        """Done deliveries of a queue, to be acknowledged."""
        self.commit_wanted = asyncio.Event()
        self.thresholds: list[tuple[int, asyncio.Future[None]]] = []
        """Who waits for ``in_flight`` to fall below a number."""
        self.stream: Stream
        self.parts: dict[int, PartitionProgress] = {}
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the stream ended by itself, as when the topic was deleted."""
        self._request = Subscribe(
            topic, group, subscription_id, start, reset, handler.filter, self._transactions
        )
        self.comes_again = not self.is_log or (
            group is not None and Capability.DURABLE in backend.capabilities
        )
        """Whether what is left undone is delivered again later."""
        self._filters = (
            not handler.filter.everything and Capability.FILTER_PUSHDOWN not in backend.capabilities
        )
        self._commit_timer: Handle | None = None
        self._commit_lock = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self.stopping = False
        kind = Workers if handler.batch_size is None else BatchWorkers
        self._workers = kind(self, middleware)

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the stream and begin to receive."""
        self.stream = await self.bus.backend.subscribe(self._request, self)
        self._tasks = [
            asyncio.create_task(self._pump(), name=f"dimesh-pump-{self.id}"),
            asyncio.create_task(self._commit_loop(), name=f"dimesh-commit-{self.id}"),
        ]
        for task in self._tasks:
            task.add_done_callback(report_death)
        self._workers.start()

    async def stop(self, timeout: float) -> None:
        """Finish what was received (and, where no position is kept that a successor could go on from, what was
        taken before this call), commit, and leave. What is not done after ``timeout`` seconds is cancelled and not
        committed.
        """
        if self.stopping:
            return
        self.stopping = True
        late: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.bus.clock.call_later(timeout, partial(settle, late))
        only_received = self.comes_again
        try:
            if only_received:
                self._tasks[0].cancel()
                # What waits for another attempt comes again to the next member: not worth waiting for.
                self.drop(sum(part.drop_parked() for part in self.parts.values()))
            while not late.done():
                if self.in_flight:
                    await self._wait_below(1, late)
                elif only_received or self.finished.done() or self.stream.caught_up():
                    break
                else:
                    await asyncio.sleep(0.001)  # the pump is between two receives
        finally:
            timer.cancel()
            unhandled = self.in_flight
            await self._leave()
        if unhandled:
            log.warning(
                "subscription %s of topic %s: %d events were not handled within %g s of closing%s",
                self.id,
                self.topic,
                unhandled,
                timeout,
                "; the group's next member gets them" if self.group else " and are gone for it",
            )

    async def caught_up(self) -> None:
        """Return when everything taken before the call was handled."""
        while not self.finished.done():
            if self.in_flight:
                await self._wait_below(1, self.finished)
            elif self.stream.caught_up():
                return
            else:
                await asyncio.sleep(0.001)

    async def _leave(self) -> None:
        if self._commit_timer is not None:
            self._commit_timer.cancel()
        for part in self.parts.values():
            part.give_up()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._workers.stop()
        try:
            await self._commit()
        except DimeshError as error:
            log.warning("subscription %s: the last commit failed: %s", self.id, error)
        await self.stream.close()

    # -- partitions (the backend calls these) ----------------------------------------------------

    async def assigned(self, partitions: Mapping[int, int]) -> None:
        """Take over partitions; the ids handled last are read back from the log, so that repeats are known."""
        window = self.options.dedup_window
        for number, offset in partitions.items():
            part = PartitionProgress(number, offset, window)
            if window and self.group is not None and offset > 0:
                await self._look_back(part, window)
            self.parts[number] = part

    async def _look_back(self, part: PartitionProgress, window: int) -> None:
        assert part.seen is not None
        start = {part.number: max(part.committed - window, 0)}
        try:
            handled = await self.bus.backend.read(self.topic, start, window)
        except (NotOfferedError, TopicNotFoundError, PositionLostError):
            return
        for delivery in handled:
            if delivery.offset < part.committed:
                try:
                    part.seen.add(identity_of(delivery.record.event))
                except CodecError:
                    continue

    async def revoked(self, partitions: Sequence[int]) -> None:
        """Finish the calls that run, drop what was not begun, commit."""
        parts = [self.parts[number] for number in partitions if number in self.parts]
        for part in parts:
            self.drop(part.give_up())
        for part in parts:
            if part.running:
                part.left = asyncio.get_running_loop().create_future()
                await part.left
        try:
            await self._commit()
        except DimeshError as error:
            log.warning("subscription %s: commit at revoke failed: %s", self.id, error)
        for part in parts:
            self.parts.pop(part.number, None)

    def lost(self, partitions: Sequence[int]) -> None:
        """Drop everything of them; another member has them already."""
        for number in partitions:
            part = self.parts.pop(number, None)
            if part is not None:
                self.drop(part.give_up())
                log.warning(
                    "subscription %s lost partition %d of %s to another member; what runs now may be handled twice",
                    self.id,
                    number,
                    self.topic,
                )

    # -- receiving -------------------------------------------------------------------------------

    async def _pump(self) -> None:
        maximum = self.options.max_in_flight
        errors = 0
        while True:
            room = maximum - self.in_flight
            if room <= 0:
                await self._wait_below(max(maximum * 3 // 4, 1))
                continue
            try:
                batches = await self.stream.receive(room)
            except PositionLostError as error:
                self.stats.gaps += 1
                log.warning("subscription %s: events were removed before they were read: %s", self.id, error)
                continue
            except (BusError, StorageError) as error:
                errors += 1
                wait = BACKOFF.delay(errors, self.bus.rng)
                log.warning("subscription %s: cannot read, again in %.1f s: %s", self.id, wait, error)
                await self.bus.clock.sleep(wait)
                continue
            errors = 0
            if not batches:
                if not self.finished.done():
                    self.finished.set_result(None)
                return
            for batch in batches:
                self._accept(batch)

    def _accept(self, batch: Batch) -> None:
        part = self.parts.get(batch.partition)
        if part is None:
            if self.is_log:
                return  # given up in between; its next owner gets these
            part = self.parts[batch.partition] = PartitionProgress(
                batch.partition, batch.next_offset, self.options.dedup_window
            )
        deliveries = self._wanted(batch.deliveries) if self._filters else batch.deliveries
        part.next_offset = batch.next_offset
        if batch.attempts:
            part.attempts.update(batch.attempts)
        if self.tracks:
            part.open.update([d.offset for d in deliveries])
        self.stats.received += len(deliveries)
        self.in_flight += len(deliveries)
        self._workers.put(part, deliveries)
        if self._commit_timer is None and (self.tracks or not self.is_log):
            self._commit_timer = self.bus.clock.call_later(self._interval, self.commit_wanted.set)

    def _wanted(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        wants = self.handler.filter.wants
        chosen: list[Delivery] = []
        for delivery in deliveries:
            record = delivery.record
            if wants(record.event_type, record.pillar, record.priority):
                chosen.append(delivery)
            elif not self.is_log:
                self.acks.append(delivery)
        return chosen

    # -- flow ------------------------------------------------------------------------------------

    def drop(self, count: int) -> None:
        """Received records that are left to whoever gets them next."""
        self.in_flight -= count
        if self.thresholds:
            self.check_thresholds()

    def check_thresholds(self) -> None:
        """Wake who waits for fewer records in flight. Called when there is somebody."""
        waiting = [entry for entry in self.thresholds if self.in_flight >= entry[0]]
        if len(waiting) < len(self.thresholds):
            for target, future in self.thresholds:
                if self.in_flight < target and not future.done():
                    future.set_result(None)
            self.thresholds = waiting

    async def _wait_below(self, target: int, or_else: asyncio.Future[None] | None = None) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (target, future)
        self.thresholds.append(entry)
        try:
            if or_else is None:
                await future
            else:
                await asyncio.wait((future, or_else), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if entry in self.thresholds:
                self.thresholds.remove(entry)

    # -- committing ------------------------------------------------------------------------------

    async def _commit_loop(self) -> None:
        errors = 0
        while True:
            await self.commit_wanted.wait()
            self.commit_wanted.clear()
            if self._commit_timer is not None:
                self._commit_timer.cancel()
                self._commit_timer = None
            again = self._interval
            try:
                await self._commit()
                errors = 0
            except DimeshError as error:
                errors += 1
                again += BACKOFF.delay(errors, self.bus.rng)
                log.warning("subscription %s: commit failed, again in %.1f s: %s", self.id, again, error)
            # What was done while the commit was on its way needs another one, although nothing may come any more.
            if (self.in_flight or self.uncommitted or errors) and self._commit_timer is None:
                self._commit_timer = self.bus.clock.call_later(again, self.commit_wanted.set)

    async def _commit(self) -> None:
        """Make durable what is done. Committed is never beyond handled: see PartitionProgress.watermark."""
        async with self._commit_lock:
            self.uncommitted = 0
            if not self.is_log:
                await self._acknowledge()
                return
            if not self.tracks:
                return
            parts = [(part, part.watermark()) for part in self.parts.values()]
            positions = {part.number: mark for part, mark in parts if mark > part.committed}
            if not positions:
                return
            try:
                if self.produce_to is None:
                    await self.stream.commit(positions)
                else:
                    await self._produce(self.produce_to, [(p, m) for p, m in parts if m > p.committed])
            except FencedError as error:
                log.warning("subscription %s: %s", self.id, error)
            self.stats.commits += 1
            for part, mark in parts:
                part.committed = max(part.committed, mark)

    async def _acknowledge(self) -> None:
        """Tell a queue what is done; what that produced is published first."""
        acks, self.acks = self.acks, []
        if not acks:
            return
        try:
            if self.produce_to is not None:
                outputs = self.parts[acks[0].partition].outputs
                passed = [delivery.offset for delivery in acks if delivery.offset in outputs]
                records = [record for offset in passed for record in outputs[offset]]
                if records:
                    await self.bus.backend.append(self.produce_to, records)
                for offset in passed:
                    del outputs[offset]
            await self.stream.acknowledge(acks)
        except FencedError as error:
            log.warning("subscription %s: %s", self.id, error)
        except BaseException:
            self.acks = acks + self.acks
            raise
        self.stats.commits += 1

    async def _produce(self, topic: str, parts: Sequence[tuple[PartitionProgress, int]]) -> None:
        """Commit, together with what was produced below the positions."""
        for part, mark in parts:
            passed = [offset for offset in sorted(part.outputs) if offset < mark]
            records = [record for offset in passed for record in part.outputs[offset]]
            if self._transactions:
                assert isinstance(self.stream, TransactionalStream)
                await self.stream.produce(part.number, mark, topic, records)
            elif records:
                await self.bus.backend.append(topic, records)
            for offset in passed:
                del part.outputs[offset]
            if not self._transactions:
                await self.stream.commit({part.number: mark})
            part.committed = max(part.committed, mark)
