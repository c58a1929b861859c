"""Counts the death of a process as a failed attempt of the event that it was handling, without a write for each event.

1. When a member gets a partition, it makes a mark durable at the first record that it receives, before any handler runs. It
   removes the mark when a committed position has passed it, and when it leaves. A member that finds a mark where it starts knows
   that the one before it died, and that hardly anything was committed in between.
2. Then the records that may have been in flight there, at most ``max_in_flight`` of those that are older than the membership,
   are handled with care: one at a time, and each bears the mark and counts as failed, durably, until its handler returns or
   raises.
3. A record whose attempts are used up in this way is dead-lettered without another call.

So a record that always ends its process is found after one or two deaths more than the policy has attempts, and is the only
one that is blamed. The mark is kept as a negative number of attempts, see :func:`dimesh.bus.failures.marked`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from dimesh.bus.failures import Failures, unmarked
from dimesh.bus.progress import PartitionProgress
from dimesh.bus.services import Services
from dimesh.bus.spec import SubscriptionSpec
from dimesh.spi.bus import Attempts, Batch, Delivery

log = logging.getLogger("dimesh.bus")

CLOCK_SKEW: Final = 60.0
"""The seconds by which the clock of a broker may be ahead."""
LONGEST_TURN: Final = 375.0
"""The seconds to wait for the other careful calls of a process, if a handler has no time limit."""


class ProcessDiedError(RuntimeError):
    """The process ended while a handler ran."""


class Crashes:
    """What one subscription knows of the deaths of its predecessors."""

    def __init__(self, spec: SubscriptionSpec, services: Services, failures: Failures) -> None:
        self._spec = spec
        self._services = services
        self._failures = failures

    async def look(self, part: PartitionProgress, batch: Batch) -> None:
        """Look for the mark of a member that died, and make one at the first record of the partition that is received."""
        first, part.began = not part.began, True
        now = self._services.clock.time()
        if any(attempts.failures < 0 for attempts in batch.attempts.values()):
            part.suspects = self._spec.options.max_in_flight
            part.since = now + CLOCK_SKEW
            log.warning(
                "subscription %s: the process that had partition %d of %s died without progress: the records that it had are now "
                "handled one at a time",
                self._spec.id,
                part.number,
                self._spec.topic,
            )
        if first:
            part.mark = batch.deliveries[0]
            known = batch.attempts.get(part.mark.offset)
            await self._failures.keep_attempts(part, part.mark, unmarked(known))

    async def passed(self, parts: Iterable[PartitionProgress]) -> None:
        """Remove the marks that committed positions have passed."""
        for part in parts:
            if part.mark is not None and part.committed > part.mark.offset:
                await self._remove_mark(part)

    async def end(self, parts: Iterable[PartitionProgress]) -> None:
        """Remove the marks of partitions that are left in order, and with them what counts for a call that was cancelled."""
        for part in parts:
            await self._remove_mark(part)

    async def _remove_mark(self, part: PartitionProgress) -> None:
        old, part.mark = part.mark, None
        await self._unmark(part, old)

    async def _unmark(self, part: PartitionProgress, old: Delivery | None) -> None:
        """Keep the attempts of a record that bore the mark without it."""
        if old is not None:
            await self._failures.keep_attempts(part, old, part.attempts.get(old.offset))

    def is_suspect(self, part: PartitionProgress, delivery: Delivery) -> bool:
        """Return whether a record may have been in flight when the process died. Later ones are none, either, after one that is
        none.
        """
        if part.suspects > 0 and delivery.timestamp >= part.since:
            part.suspects = 0
        return part.suspects > 0

    def verdict(self, part: PartitionProgress, delivery: Delivery) -> ProcessDiedError | None:
        """Return the error for a record whose attempts are used up; None if it is handled once more."""
        attempts = part.attempts.get(delivery.offset)
        if attempts is None:
            return None
        error = ProcessDiedError(
            f"the process died, or {self._spec.handler.name} failed, in each of {attempts.failures} attempts at this event"
        )
        return error if self._failures.is_final(error, attempts) else None

    @asynccontextmanager
    async def careful(self, part: PartitionProgress, delivery: Delivery) -> AsyncIterator[None]:
        """Count a record as failed while the block handles it: alone in this process, as far as other records are suspects."""
        limit = self._spec.options.handler_timeout
        lock = self._services.careful
        locked = False
        try:
            async with asyncio.timeout(LONGEST_TURN if limit is None else limit * 1.25):
                locked = await lock.acquire()
        except TimeoutError:
            pass  # a call that hangs holds nobody up
        try:
            known = part.attempts.get(delivery.offset)
            failures, first = (known.failures, known.first) if known else (0, self._services.clock.time())
            old, part.mark = part.mark, delivery
            await self._failures.keep_attempts(part, delivery, Attempts(failures + 1, first))
            if old is not delivery:
                await self._unmark(part, old)
            yield
            part.suspects -= 1
            await self._remove_mark(part)
        finally:
            if locked:
                lock.release()
