"""The gate of a subscription: whether the next call of the handler may start.

A pause, an open circuit and a limit on the rate each close it. Records wait in their lanes then; partitions, heartbeats and
leases are kept, since the stream goes on, and reading stops by itself when ``max_in_flight`` records are there.
"""

from __future__ import annotations

from collections.abc import Callable

from dimesh.bus.breaker import Breaker
from dimesh.bus.options import SubscriptionOptions, SubscriptionState, SubscriptionStats
from dimesh.bus.rate import RateLimit
from dimesh.bus.transient import is_transient
from dimesh.clock import Clock, Handle


class Gate:
    """The gate of one subscription.

    Args:
        options: the limit on the rate, and the circuit breaker.
        clock: time.
        stats: the counters of the subscription, among them its state.
        opened: is called when calls may start again.
        changed: is called with each new state and the reason.
    """

    __slots__ = ("_breaker", "_changed", "_clock", "_opened", "_paused", "_rate", "_stats", "_timer", "shut")

    def __init__(
        self,
        options: SubscriptionOptions,
        clock: Clock,
        stats: SubscriptionStats,
        opened: Callable[[], None],
        changed: Callable[[SubscriptionState, str], None],
    ) -> None:
        self.shut = options.rate is not None
        """Whether :meth:`admit` must be asked before a call; otherwise every call may start. Read for each event."""
        self._clock = clock
        self._stats = stats
        self._opened = opened
        self._changed = changed
        self._paused = False
        self._rate = None if options.rate is None else RateLimit(options.rate, clock.monotonic())
        self._breaker = (
            None if options.breaker is None else Breaker(options.breaker, clock, stats, self._show)
        )
        self._timer: Handle | None = None

    @property
    def resting(self) -> bool:
        """Whether nothing is started for longer than a limit on the rate holds up: paused, or the circuit is open."""
        return self._stats.state is not SubscriptionState.RUNNING

    def admit(self) -> bool:
        """Return whether a call may start, and count it."""
        if self.blocks():
            return False
        self.charge(1)
        if self._breaker is not None:
            self._breaker.admitted()
        return True

    def charge(self, count: int) -> None:
        """Count events that are handled together with one that was admitted."""
        if self._rate is not None:
            self._rate.take(count)

    def blocks(self) -> bool:
        """Return whether no call may start now. When one may, ``opened`` will be called."""
        if self._paused or (self._breaker is not None and self._breaker.blocks()):
            return True
        if self._rate is None:
            return False
        wait = self._rate.wait(self._clock.monotonic())
        if not wait:
            return False
        if self._timer is None:
            self._timer = self._clock.call_later(wait, self._due)
        return True

    def failed(self, error: BaseException) -> None:
        """Note that a call failed."""
        if self._breaker is None:
            return
        if is_transient(error):
            self._breaker.failed(error)
        else:
            self._breaker.spoiled()

    def pause(self) -> None:
        """Start no call until :meth:`resume`."""
        if not self._paused:
            self._paused = True
            self._show("by request")

    def resume(self) -> None:
        """End a pause. An open circuit stays open."""
        if self._paused:
            self._paused = False
            self._show("by request")

    def close(self) -> None:
        """Call the timers off."""
        if self._timer is not None:
            self._timer.cancel()
        if self._breaker is not None:
            self._breaker.stop()

    def _show(self, reason: str) -> None:
        state = SubscriptionState.RUNNING if self._breaker is None else self._breaker.state
        if self._paused:
            state = SubscriptionState.PAUSED
        self.shut = state is not SubscriptionState.RUNNING or self._rate is not None
        if state is not self._stats.state:
            self._stats.state = state
            self._changed(state, reason)
        if state in (SubscriptionState.RUNNING, SubscriptionState.HALF_OPEN):
            self._opened()

    def _due(self) -> None:
        self._timer = None
        self._opened()
