"""Options and counters of a subscription."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dimesh.bus.foreign import ForeignRecords
from dimesh.bus.retry import CircuitBreaker, RetryPolicy
from dimesh.errors import ConfigurationError

DEFAULT_RETRY = RetryPolicy()
DEFAULT_BREAKER = CircuitBreaker()


@dataclass(frozen=True, slots=True)
class SubscriptionOptions:
    """The options of a subscription.

    Raises:
        ConfigurationError: a value is out of range.
    """

    concurrency: int = 16
    """The number of ordering keys that are handled at the same time."""
    max_in_flight: int = 1_000
    """The largest number of records that are received and not finished; the stream is not read further until there is room."""
    retry: RetryPolicy = DEFAULT_RETRY
    handler_timeout: float | None = 300.0
    """The seconds after which a call of the handler counts as failed, and is cancelled if it is a coroutine. It is checked every
    quarter of that time. None: no limit."""
    dedup_window: int = 10_000
    """The number of events remembered for each partition, to drop repeats; 0: none."""
    rate: float | None = None
    """The largest number of events per second that are handed to the handler; None: no limit. Another attempt counts as well."""
    topics_interval: float = 10.0
    """The seconds between two looks at the list of topics, for a subscription by pattern."""
    breaker: CircuitBreaker | None = DEFAULT_BREAKER
    """When to stop calling a handler most of whose calls fail by transient errors; None: never."""
    foreign: ForeignRecords | None = None
    """How records that are not events are read; None: they are dead-lettered."""

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.max_in_flight < 1:
            raise ConfigurationError("concurrency and max_in_flight must be 1 or more")
        if self.dedup_window < 0:
            raise ConfigurationError("dedup_window must not be negative")
        if self.handler_timeout is not None and self.handler_timeout <= 0:
            raise ConfigurationError("handler_timeout must be positive, or None for no limit")
        if not self.topics_interval > 0:
            raise ConfigurationError("topics_interval must be more than 0 seconds")
        if self.rate is not None and not self.rate > 0:
            raise ConfigurationError("rate must be more than 0 events per second, or None for no limit")


class SubscriptionState(StrEnum):
    """Whether a subscription calls its handler."""

    RUNNING = "running"
    PAUSED = "paused"
    """By :meth:`EventBus.pause`."""
    OPEN = "open"
    """The circuit is open: most calls failed, and none is started for a while."""
    HALF_OPEN = "half-open"
    """One event is let through, to find out whether calls succeed again."""


@dataclass(slots=True)
class SubscriptionStats:
    """Counters since the subscription was opened."""

    received: int = 0
    handled: int = 0
    failed: int = 0
    """The number of calls of the handler that failed; one event may fail several times."""
    dead_lettered: int = 0
    redelivered: int = 0
    """The number of events that were sent back to be delivered again later."""
    given_up: int = 0
    """The number of events that were neither handled nor dead-lettered: the backend refuses their dead letters for good."""
    duplicates: int = 0
    skipped: int = 0
    """The number of events that were redriven for another group."""
    timeouts: int = 0
    commits: int = 0
    opened: int = 0
    """The number of times that the circuit opened because most calls failed."""
    state: SubscriptionState = SubscriptionState.RUNNING
    gaps: int = 0
    """The number of times that retention removed events before they were read."""
