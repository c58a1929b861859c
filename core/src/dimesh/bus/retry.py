"""When to try again, how long to wait, and when to give up."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from dimesh.errors import CodecError, ConfigurationError, PayloadError, RejectError, SchemaValidationError

FATAL: Final[tuple[type[BaseException], ...]] = (
    RejectError,
    PayloadError,
    CodecError,
    SchemaValidationError,
)
"""What trying again cannot help."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter: before attempt n+1 the wait is a random time between 0 and
    ``base * factor**(n-1)``, at most ``maximum`` seconds.

    (Full jitter: Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.)

    Raises:
        ConfigurationError: a figure is out of range.
    """

    attempts: int = 5
    """How often a handler is called in all before the event goes to the dead letters; 1: never again."""
    base: float = 0.1
    factor: float = 2.0
    maximum: float = 30.0
    fatal: tuple[type[BaseException], ...] = ()
    """Errors that dead-letter at once, beside those of dimesh (RejectError, payload and schema errors)."""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigurationError("retry attempts must be 1 or more")
        if self.base < 0 or self.factor < 1 or self.maximum < 0:
            raise ConfigurationError("retry base and maximum must not be negative, factor not below 1")

    def is_fatal(self, error: BaseException) -> bool:
        """Whether retrying is pointless."""
        return isinstance(error, (*FATAL, *self.fatal))

    def delay(self, failed: int, rng: random.Random) -> float:
        """Seconds to wait after the ``failed``-th failure (from 1)."""
        ceiling = min(self.base * self.factor ** min(failed - 1, 64), self.maximum)
        return rng.uniform(0.0, ceiling)
