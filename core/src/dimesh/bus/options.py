"""How a subscription works, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass

from dimesh.bus.retry import RetryPolicy
from dimesh.errors import ConfigurationError

DEFAULT_RETRY = RetryPolicy()


@dataclass(frozen=True, slots=True)
class SubscriptionOptions:
    """How a subscription works.

    Raises:
        ConfigurationError: a figure is out of range.
    """

    concurrency: int = 16
    """Ordering keys handled at the same time."""
    max_in_flight: int = 1_000
    """Records received and not done; the stream is not read further until there is room."""
    retry: RetryPolicy = DEFAULT_RETRY
    handler_timeout: float | None = 300.0
    """Seconds after which a call of the handler counts as failed (and is cancelled, if it is a coroutine); noticed
    within a quarter of it. None: no limit."""
    dedup_window: int = 10_000
    """Event ids remembered for each partition to drop repeats; 0: none."""

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.max_in_flight < 1:
            raise ConfigurationError("concurrency and max_in_flight must be 1 or more")
        if self.dedup_window < 0:
            raise ConfigurationError("dedup_window must not be negative")
        if self.handler_timeout is not None and self.handler_timeout <= 0:
            raise ConfigurationError("handler_timeout must be positive, or None for no limit")


@dataclass(slots=True)
class SubscriptionStats:
    """Counters since the subscription was opened."""

    received: int = 0
    handled: int = 0
    failed: int = 0
    """Calls of the handler that failed; one event may fail several times."""
    dead_lettered: int = 0
    duplicates: int = 0
    skipped: int = 0
    """Redriven for another group."""
    timeouts: int = 0
    commits: int = 0
    gaps: int = 0
    """Times that retention overtook the position."""
