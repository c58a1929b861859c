"""A limit on the rate of a subscription: a token bucket."""

from __future__ import annotations

from typing import Final

_BURST: Final = 0.05
"""The seconds of the rate that may be handled at once after a rest."""


class RateLimit:
    """Counts events against a rate.

    Args:
        rate: events per second.
        now: the monotonic time.
    """

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._burst = max(rate * _BURST, 1.0)
        self._tokens = 1.0
        self._at = now

    def wait(self, now: float) -> float:
        """Return the seconds until the next event may be handled; 0: now."""
        self._tokens = min(self._tokens + (now - self._at) * self._rate, self._burst)
        self._at = now
        # Some tolerance: a timer may fire a rounding error early.
        return 0.0 if self._tokens > 1.0 - 1e-6 else (1.0 - self._tokens) / self._rate

    def take(self, count: int) -> None:
        """Count events that are handled now. More than were free delay the next ones."""
        self._tokens -= count
