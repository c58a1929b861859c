"""Commits: makes durable what is handled, and publishes what handlers produced together with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from dimesh.bus.crashes import Crashes
from dimesh.bus.door import Operation
from dimesh.bus.failures import Failures
from dimesh.bus.inflight import InFlight
from dimesh.bus.options import SubscriptionStats
from dimesh.bus.progress import PartitionProgress
from dimesh.bus.retry import BACKOFF
from dimesh.bus.services import Services
from dimesh.bus.spec import SubscriptionSpec
from dimesh.clock import Handle
from dimesh.errors import FencedError, is_permanent
from dimesh.printable import printable_error
from dimesh.spi.bus import Record, Stream, TransactionalStream

log = logging.getLogger("dimesh.bus")


class Committer:
    """Commits for one subscription: when a timer is due, when enough is handled, and at the end."""

    def __init__(
        self,
        spec: SubscriptionSpec,
        services: Services,
        in_flight: InFlight,
        stats: SubscriptionStats,
        parts: Mapping[int, PartitionProgress],
        failures: Failures,
        crashes: Crashes,
    ) -> None:
        self._spec = spec
        self._services = services
        self._in_flight = in_flight
        self._stats = stats
        self._parts = parts
        self._failures = failures
        self._crashes = crashes
        self._stream: Stream
        self._timer: Handle | None = None
        self._lock = asyncio.Lock()

    def start(self, stream: Stream) -> None:
        """Take the stream that positions are committed to."""
        self._stream = stream

    def stop(self) -> None:
        """Call the timer off."""
        if self._timer is not None:
            self._timer.cancel()

    def schedule(self) -> None:
        """Make sure that a commit comes within the interval."""
        if self._timer is None and (self._spec.tracks or not self._spec.is_log):
            self._schedule_in(self._spec.commit_interval)

    def _schedule_in(self, seconds: float) -> None:
        self._timer = self._services.clock.call_later(seconds, self._in_flight.commit_wanted.set)

    async def run(self) -> None:
        """Commit whenever it is wanted, until cancelled."""
        in_flight = self._in_flight
        errors = 0
        while True:
            await in_flight.commit_wanted.wait()
            in_flight.commit_wanted.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            wait = self._spec.commit_interval
            try:
                await self.commit()
                errors = 0
            except Exception as error:  # a backend may raise anything
                errors += 1
                wait += BACKOFF.delay(errors, self._services.rng)
                log.warning(
                    "subscription %s: commit failed, next attempt in %.1f s: %s",
                    self._spec.id,
                    wait,
                    printable_error(error),
                )
            # What was handled during the commit needs another one, although nothing more may arrive.
            if (in_flight.count or in_flight.uncommitted or errors) and self._timer is None:
                self._schedule_in(wait)

    async def commit(self) -> None:
        """Make durable what is handled. A committed offset is never beyond it: see :meth:`PartitionProgress.watermark`."""
        async with self._lock:
            self._in_flight.uncommitted = 0
            if not self._spec.is_log:
                await self._acknowledge()
                return
            if not self._spec.tracks:
                return
            parts = [(part, part.watermark()) for part in self._parts.values()]
            positions = {part.number: mark for part, mark in parts if mark > part.committed}
            if not positions:
                return
            try:
                if self._spec.produce_to is None:
                    await self._stream.commit(positions)
                else:
                    moved = [(part, mark) for part, mark in parts if mark > part.committed]
                    await self._produce(self._spec.produce_to, moved)
            except FencedError as error:
                log.warning("subscription %s: %s", self._spec.id, error)
            self._stats.commits += 1
            for part, mark in parts:
                part.committed = max(part.committed, mark)
            await self._crashes.passed(tuple(self._parts.values()))

    async def _acknowledge(self) -> None:
        """Acknowledge to a queue what is handled. What that produced is published first."""
        in_flight = self._in_flight
        acks, in_flight.acks = in_flight.acks, []
        if not acks:
            return
        try:
            if self._spec.produce_to is not None:
                part = self._parts[acks[0].partition]
                passed = [delivery.offset for delivery in acks if delivery.offset in part.produced]
                await self._publish(self._spec.produce_to, part, passed)
            await self._stream.acknowledge(acks)
        except FencedError as error:
            log.warning("subscription %s: %s", self._spec.id, error)
        except BaseException:
            in_flight.acks = acks + in_flight.acks
            raise
        self._stats.commits += 1

    # -- what handlers produced ------------------------------------------------------------------

    async def _produce(self, topic: str, parts: Sequence[tuple[PartitionProgress, int]]) -> None:
        """Commit positions together with what was produced below them."""
        for part, mark in parts:
            passed = [offset for offset in sorted(part.produced) if offset < mark]
            try:
                if self._spec.transactions:
                    await self._transact(topic, part, mark, passed)
                else:
                    await self._publish(topic, part, passed)
                    await self._stream.commit({part.number: mark})
            except FencedError as error:
                log.warning("subscription %s: %s", self._spec.id, error)
            part.committed = max(part.committed, mark)

    async def _publish(self, topic: str, part: PartitionProgress, offsets: Sequence[int]) -> None:
        """Publish what the events at these offsets produced: all of it at once, and if that is refused for good, one event's
        results after the other's, so that only those events fail whose results are refused.
        """
        records = _produced(part, offsets)
        if records:
            try:
                await self._services.door.append(topic, records, operation=Operation.PRODUCE)
            except Exception as error:
                if not is_permanent(error):
                    raise
                if len(offsets) == 1:
                    await self._refused(part, offsets[0], error)
                else:
                    for offset in offsets:
                        await self._publish(topic, part, (offset,))
        for offset in offsets:
            part.produced.pop(offset, None)

    async def _transact(self, topic: str, part: PartitionProgress, mark: int, offsets: Sequence[int]) -> None:
        """Commit a position in one transaction with what the events at these offsets produced. If that is refused for good, each
        event gets a transaction of its own; the event whose results are refused fails.
        """
        door = self._services.door
        assert isinstance(self._stream, TransactionalStream)
        try:
            await door.produce(self._stream, part.number, mark, topic, _produced(part, offsets))
        except Exception as error:
            if not is_permanent(error) or not offsets:
                raise
            if len(offsets) == 1:
                await self._refused(part, offsets[0], error)
            else:
                for offset in offsets:
                    await self._transact(topic, part, offset + 1, (offset,))
            await door.produce(self._stream, part.number, mark, topic, ())
        for offset in offsets:
            part.produced.pop(offset, None)
        part.committed = max(part.committed, mark)

    async def _refused(self, part: PartitionProgress, offset: int, error: Exception) -> None:
        """Fail an event whose results are refused for good, although its handler succeeded."""
        delivery, _ = part.produced[offset]
        if not await self._failures.fail_handled(part, delivery, error):
            raise FencedError(f"partition {part.number} was revoked before an event could be dead-lettered")
        del part.produced[offset]


def _produced(part: PartitionProgress, offsets: Iterable[int]) -> list[Record]:
    return [record for offset in offsets for record in part.produced[offset][1]]
