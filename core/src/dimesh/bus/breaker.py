"""A circuit breaker: stops calling a handler while most of its calls fail by transient errors.

Then something that the handler needs is down, and more calls would fail as well. After a pause one event is let through; if it is
handled, all go on, otherwise the next pause is twice as long. Errors that are not transient do not count: they are the fault of
single events, which become dead letters, and stop nobody.
(Nygard, "Release It!", chapter "Stability Patterns".)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dimesh.bus.options import SubscriptionState, SubscriptionStats
from dimesh.bus.retry import CircuitBreaker
from dimesh.clock import Clock, Handle


class Breaker:
    """The breaker of one subscription.

    It looks at the counters of the subscription when a call fails, so that a call that succeeds costs nothing.

    Args:
        policy: when to open, and for how long.
        clock: time.
        stats: the counters of the subscription.
        changed: is called with the reason after each change of the state.
    """

    def __init__(
        self,
        policy: CircuitBreaker,
        clock: Clock,
        stats: SubscriptionStats,
        changed: Callable[[str], None],
    ) -> None:
        self.state = SubscriptionState.RUNNING
        self._policy = policy
        self._clock = clock
        self._stats = stats
        self._changed = changed
        self._window = _Window(-policy.window, 0, 0)
        self._pause = policy.pause
        self._timer: Handle | None = None
        self._probe: _Probe | None = None

    def failed(self, error: BaseException) -> None:
        """Count a call that failed by a transient error."""
        if self.state is SubscriptionState.OPEN:
            return
        if self.state is SubscriptionState.HALF_OPEN:
            self._pause = min(self._pause * 2, self._policy.longest)
            self._open(f"still {type(error).__name__}")
            return
        now = self._clock.monotonic()
        window = self._window
        if now - window.began >= self._policy.window:
            window = self._window = _Window(now, self._stats.handled, 0)
        window.failed += 1
        handled = self._stats.handled - window.handled
        calls = window.failed + handled
        if window.failed >= self._policy.failures and window.failed > self._policy.share * calls:
            self._open(
                f"{window.failed} of {calls} calls failed within {now - window.began:.1f} s, the last one by "
                f"{type(error).__name__}"
            )

    def spoiled(self) -> None:
        """Note that a call failed by an error that is not transient: whether the others would succeed is still open."""
        self._probe = None

    def blocks(self) -> bool:
        """Return whether no call may start now."""
        if self.state is not SubscriptionState.HALF_OPEN:
            return self.state is SubscriptionState.OPEN
        probe = self._probe
        if probe is None:
            return False
        stats = self._stats
        if stats.handled > probe.handled:
            self._close()
            return False
        # A repeat that was dropped proves nothing; and a call that hangs must not block for ever.
        if probe.passed == _passed(stats) and self._clock.monotonic() < probe.until:
            return True
        self._probe = None
        return False

    def admitted(self) -> None:
        """Note that a call starts."""
        if self.state is SubscriptionState.HALF_OPEN:
            until = self._clock.monotonic() + self._policy.longest
            self._probe = _Probe(self._stats.handled, _passed(self._stats), until)

    def stop(self) -> None:
        """Call the timer off."""
        if self._timer is not None:
            self._timer.cancel()

    def _open(self, reason: str) -> None:
        self.state = SubscriptionState.OPEN
        self._probe = None
        self._stats.opened += 1
        self._timer = self._clock.call_later(self._pause, self._half_open)
        self._changed(f"{reason}; the next call is in {self._pause:g} s")

    def _half_open(self) -> None:
        self._timer = None
        self.state = SubscriptionState.HALF_OPEN
        self._changed("one event is let through")

    def _close(self) -> None:
        self.state = SubscriptionState.RUNNING
        self._probe = None
        self._pause = self._policy.pause
        self._window = _Window(self._clock.monotonic(), self._stats.handled, 0)
        self._changed("an event was handled")


@dataclass(slots=True)
class _Window:
    began: float
    handled: int
    """The counter of handled events when the window began."""
    failed: int


@dataclass(frozen=True, slots=True)
class _Probe:
    handled: int
    passed: int
    until: float


def _passed(stats: SubscriptionStats) -> int:
    """Count the deliveries that ended without a call of the handler."""
    return stats.duplicates + stats.skipped + stats.dead_lettered
