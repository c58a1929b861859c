"""The failure path: counts failed attempts, and dead-letters events that are not tried again.

User code runs in it, too: retry policies, observers, and the text of exceptions. None of it may stop the group, so nothing
here raises, except for a cancellation.
"""

from __future__ import annotations

import logging

from dimesh.bus.deadletter import Failure
from dimesh.bus.inflight import InFlight
from dimesh.bus.observer import notify
from dimesh.bus.options import SubscriptionStats
from dimesh.bus.progress import PartitionProgress
from dimesh.bus.redelivery import in_all, redeliveries
from dimesh.bus.retry import BACKOFF, DEFAULT_ATTEMPTS
from dimesh.bus.services import Services
from dimesh.bus.spec import SubscriptionSpec
from dimesh.errors import is_permanent
from dimesh.events.event import Event
from dimesh.logs.repeats import Repeats, more
from dimesh.printable import printable_error
from dimesh.spi.bus import Attempts, Delivery, Stream

log = logging.getLogger("dimesh.bus")


class Failures:
    """The failure path of one subscription."""

    def __init__(
        self, spec: SubscriptionSpec, services: Services, in_flight: InFlight, stats: SubscriptionStats
    ) -> None:
        self._spec = spec
        self._services = services
        self._in_flight = in_flight
        self._stats = stats
        self._stream: Stream
        self._repeats = Repeats()

    def start(self, stream: Stream) -> None:
        """Take the stream that keeps the numbers of attempts."""
        self._stream = stream

    def count(self, part: PartitionProgress, delivery: Delivery) -> Attempts:
        """Count one more failed attempt."""
        before = part.attempts.get(delivery.offset)
        now = self._services.clock.time()
        attempts = Attempts(before.failures + 1, before.first) if before else Attempts(1, now)
        part.attempts[delivery.offset] = attempts
        return attempts

    def is_final(self, error: BaseException, attempts: Attempts) -> bool:
        """Return whether no further attempt follows at once. The policy may be a user's class: if it raises, the number of
        attempts decides.
        """
        policy = self._spec.options.retry
        try:
            return policy.gives_up(error, attempts.failures, self._services.clock.time() - attempts.first)
        except Exception as wrong:
            log.error("subscription %s: the retry policy failed: %s", self._spec.id, printable_error(wrong))
            return attempts.failures >= (policy.attempts or DEFAULT_ATTEMPTS)

    def delay(self, attempts: Attempts) -> float:
        """Return the seconds to wait for the next attempt."""
        try:
            return max(0.0, float(self._spec.options.retry.delay(attempts.failures, self._services.rng)))
        except Exception as wrong:
            log.error("subscription %s: the retry policy failed: %s", self._spec.id, printable_error(wrong))
            return BACKOFF.delay(attempts.failures, self._services.rng)

    async def set_aside(
        self, part: PartitionProgress, delivery: Delivery, error: BaseException, attempts: Attempts
    ) -> bool:
        """Send a record back for later if the policy has a redelivery left for it; otherwise dead-letter it.

        Returns:
            Whether the record is finished here. False: the partition was revoked meanwhile, and its next owner gets the record.
        """
        policy = self._spec.options.retry
        try:
            if policy.redeliver and not policy.is_fatal(error):
                before = redeliveries(delivery.record.event)
                if before < len(policy.redeliver):
                    if await self._redeliver(part, delivery, attempts, policy.redeliver[before]):
                        return True
                    if part.revoked:
                        return False
        except Exception as wrong:
            log.error(
                "subscription %s: an event cannot come back later: %s", self._spec.id, printable_error(wrong)
            )
        return await self._dead_letter(part, delivery, error, attempts)

    async def fail_handled(self, part: PartitionProgress, delivery: Delivery, error: Exception) -> bool:
        """Dead-letter an event that counts as handled already, since what its handler produced is refused for good. Returns what
        :meth:`set_aside` returns.
        """
        attempts = self.count(part, delivery)
        self._stats.handled -= 1
        self.report(delivery, error, attempts.failures)
        if not await self._dead_letter(part, delivery, error, attempts):
            return False
        await self.forget_attempts(part, delivery)
        return True

    async def _redeliver(
        self, part: PartitionProgress, delivery: Delivery, attempts: Attempts, delay: float
    ) -> bool:
        """Send a record back for later, however often that takes. Return False if the backend never takes it."""
        spec = self._spec
        tries = 0
        while not part.revoked:
            try:
                await self._services.redelivery.send(spec.topic, spec.group or "", delivery, attempts, delay)
            except Exception as failed:
                if is_permanent(failed):
                    log.error("subscription %s: cannot send an event back for later: %s", spec.id, failed)
                    return False
                tries += 1
                await self._pause(tries, "send an event back for later", failed)
            else:
                self._stats.redelivered += 1
                log.warning(
                    "subscription %s: event %s failed %d times and is delivered again in %g s",
                    spec.id,
                    delivery.record.event.event_id,
                    attempts.failures,
                    delay,
                )
                return True
        return False

    async def _pause(self, tries: int, doing: str, failed: Exception) -> None:
        wait = BACKOFF.delay(tries, self._services.rng) + 0.1
        log.error(
            "subscription %s: cannot %s, next attempt in %.1f s: %s",
            self._spec.id,
            doing,
            wait,
            printable_error(failed),
        )
        await self._services.clock.sleep(wait)

    async def _dead_letter(
        self, part: PartitionProgress, delivery: Delivery, error: BaseException, attempts: Attempts
    ) -> bool:
        """Append to the dead letters, however often that takes: the record counts as finished only when it is there, or when the
        backend has refused it for good in every form.
        """
        spec = self._spec
        attempts = in_all(delivery, attempts)
        failure = Failure(
            error,
            attempts.failures,
            attempts.first,
            self._services.clock.time(),
            spec.topic,
            spec.group or "",
            spec.handler.name,
        )
        tries = 0
        while not part.revoked:
            try:
                written = await self._services.dead_letters.write(spec.id, delivery, failure)
            except Exception as failed:
                tries += 1
                await self._pause(tries, "dead-letter", failed)
            else:
                if written:
                    self._stats.dead_lettered += 1
                else:
                    self._stats.given_up += 1
                return True
        return False

    def report(self, delivery: Delivery, error: BaseException, attempt: int) -> None:
        """Count and log a failed attempt, and notify the observer."""
        self._stats.failed += 1
        try:
            event: Event | None = delivery.record.event
        except Exception:  # bytes that are not an event
            event = None
        suppressed = self._repeats.admit(self._services.clock.monotonic())
        if suppressed is not None:
            log.warning(
                "subscription %s: attempt %d of event %s of topic %s failed: %s%s%s",
                self._spec.id,
                attempt,
                event.event_id if event is not None else f"at {delivery.partition}/{delivery.offset}",
                self._spec.topic,
                printable_error(error),
                _place(error),
                more(suppressed),
                exc_info=error if log.isEnabledFor(logging.DEBUG) else None,
            )
        observer = self._services.observer
        if observer is not None and event is not None:
            notify(observer.failed, self._spec.topic, self._spec.id, event, error, attempt)

    async def keep_attempts(
        self, part: PartitionProgress, delivery: Delivery, attempts: Attempts | None
    ) -> None:
        """Make the number of attempts durable where the backend can, with the mark if the record bears it (see
        :mod:`dimesh.bus.crashes`). A failure to do so stops nothing.
        """
        if not self._spec.keeps_attempts:
            return
        if part.mark is delivery:
            attempts = marked(attempts)
        try:
            await self._stream.save_attempts(delivery, attempts)
        except Exception as error:
            log.warning("subscription %s: attempts not saved: %s", self._spec.id, printable_error(error))

    async def forget_attempts(self, part: PartitionProgress, delivery: Delivery) -> None:
        """Forget the failed attempts of a record that is handled or dead-lettered."""
        if part.attempts.pop(delivery.offset, None) is not None:
            await self.keep_attempts(part, delivery, None)


def marked(attempts: Attempts | None) -> Attempts:
    """Return what is kept for a record that bears the mark of :mod:`dimesh.bus.crashes`: -1 for no attempt, -2 for one, and so
    on.
    """
    return Attempts(-1, 0.0) if attempts is None else Attempts(-1 - attempts.failures, attempts.first)


def unmarked(kept: Attempts | None) -> Attempts | None:
    """Return the attempts of a record that may bear the mark; None if there are none."""
    if kept is None or kept.failures >= 0:
        return kept
    return Attempts(-1 - kept.failures, kept.first) if kept.failures < -1 else None


def _place(error: BaseException) -> str:
    """Return where an exception was raised, for the log."""
    trace = error.__traceback__
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return f" ({code.co_filename}:{trace.tb_lineno} in {code.co_name})"
