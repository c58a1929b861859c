"""Retries: when to try again, how long to wait, and when to give up."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from dimesh.bus.transient import is_transient
from dimesh.errors import ConfigurationError, is_permanent

LONGEST_DELAY: Final = 10 * 366 * 86_400.0
"""The longest delay of a delivery, in seconds."""
DEFAULT_ATTEMPTS: Final = 5
DEFAULT_PATIENCE: Final = 600.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When an event that failed is tried again, how long the wait is, and when it is given up.

    The wait before attempt n+1 is a random time between 0 and ``base * factor**(n-1)``, at most ``maximum`` seconds:
    exponential backoff with full jitter (Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).

    By default, five attempts are made, and a transient error (see :mod:`dimesh.bus.transient`) is retried for ten minutes at
    least: an outage of a few minutes dead-letters nothing. The next events of the same ordering key wait meanwhile.

    Raises:
        ConfigurationError: a value is out of range.
    """

    attempts: int | None = None
    """The number of calls in all before the event is dead-lettered; 1: a failure is never retried. None: 5, and
    ``patience`` is 600 seconds. If only ``attempts`` is given, it holds for transient errors, too."""
    base: float = 0.1
    factor: float = 2.0
    maximum: float = 30.0
    fatal: tuple[type[BaseException], ...] = ()
    """More errors that dead-letter at once, besides the errors of dimesh that are permanent: RejectError, errors of payloads,
    events and schemas, and others (see :func:`dimesh.errors.is_permanent`)."""
    patience: float | None = None
    """The seconds after the first failure in which a transient error does not dead-letter the event, however often it is
    tried."""
    redeliver: tuple[float, ...] = ()
    """Delays in seconds. An event whose attempts are used up is delivered to its group again after the first delay, with all
    attempts, then after the second, and is dead-lettered only after the last. The next events of its key do not wait for it:
    their order is given up. Needs a group, and a backend with ``delayed-delivery``."""

    def __post_init__(self) -> None:
        if self.attempts is not None and self.attempts < 1:
            raise ConfigurationError("retry attempts must be 1 or more")
        if self.base < 0 or self.factor < 1 or self.maximum < 0:
            raise ConfigurationError("retry base and maximum must not be negative, factor not below 1")
        if self.patience is not None and self.patience < 0:
            raise ConfigurationError("retry patience must not be negative")
        if any(not 0 < delay < LONGEST_DELAY for delay in self.redeliver):
            raise ConfigurationError(
                "each redelivery delay must be more than 0 seconds and less than ten years"
            )

    def is_fatal(self, error: BaseException) -> bool:
        """Return whether another attempt is pointless."""
        return is_permanent(error) or isinstance(error, self.fatal)

    def gives_up(self, error: BaseException, failures: int, elapsed: float) -> bool:
        """Return whether no further attempt follows at once.

        Args:
            error: the last error.
            failures: the number of failed attempts.
            elapsed: the seconds since the first of them.
        """
        if self.is_fatal(error):
            return True
        if failures < (DEFAULT_ATTEMPTS if self.attempts is None else self.attempts):
            return False
        patience = self.patience
        if patience is None:
            patience = DEFAULT_PATIENCE if self.attempts is None else 0.0
        return elapsed >= patience or not is_transient(error)

    def delay(self, failed: int, rng: random.Random) -> float:
        """Return the seconds to wait after the ``failed``-th failure, counted from 1."""
        ceiling = min(self.base * self.factor ** min(failed - 1, 64), self.maximum)
        return rng.uniform(0.0, ceiling)


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    """When a subscription stops calling its handler because most calls fail, and when it tries again; see
    :mod:`dimesh.bus.breaker`.

    Raises:
        ConfigurationError: a value is out of range.
    """

    failures: int = 20
    """The smallest number of transient failures within ``window`` after which nothing is called."""
    share: float = 0.5
    """The share of the calls within ``window`` that must have failed: more than this one, between 0 and 1."""
    window: float = 10.0
    """The seconds over which calls are counted."""
    pause: float = 5.0
    """The seconds until one event is let through. They double each time that it fails, too."""
    longest: float = 30.0
    """The longest pause in seconds."""

    def __post_init__(self) -> None:
        if self.failures < 1 or not 0 <= self.share < 1:
            raise ConfigurationError(
                "failures of a circuit breaker must be 1 or more, share from 0 to below 1"
            )
        if self.window <= 0 or not 0 < self.pause <= self.longest:
            raise ConfigurationError(
                "window and pause of a circuit breaker must be more than 0, longest not less than pause"
            )


BACKOFF: Final = RetryPolicy(base=0.2, maximum=10.0)
"""The waits between attempts at what the engine does itself, such as reading, committing and dead-lettering."""
