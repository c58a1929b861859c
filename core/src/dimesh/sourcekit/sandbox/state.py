"""What every simulated system has: a clock that can be moved, and random ids that a seed makes repeatable."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, Final

Row = dict[str, Any]
"""An object as the API shows it."""

BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
MAX_SKEW: Final = 10 * 366 * 86_400.0
"""The largest number of seconds by which the clock of a system may be moved."""


class Refused(Exception):  # noqa: N818 - an answer of the simulated system, not an error of ours
    """A request that the system answers with an error.

    Args:
        status: the HTTP status of the answer.
        message: the text that the system gives.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class SimulatedState:
    """The base of a simulated system's state.

    Args:
        seed: makes ids and everything else that looks random repeatable.
        now: the clock; :attr:`skew` moves it.
    """

    def __init__(self, *, seed: int = 0, now: Callable[[], float] = time.time) -> None:
        self.skew = 0.0
        """The number of seconds that the system's clock is ahead of ours."""
        self._now = now
        self._rng = random.Random(seed)  # noqa: S311 - ids of a sandbox

    def now(self) -> float:
        """Return the system's time."""
        return self._now() + self.skew

    def advance(self, seconds: float) -> None:
        """Move the system's clock.

        Raises:
            ValueError: the clock would be more than ten years away from ours.
        """
        if not -MAX_SKEW <= self.skew + seconds <= MAX_SKEW:
            raise ValueError(f"the clock can be moved by at most {MAX_SKEW:,.0f} seconds")
        self.skew += seconds

    def random_text(self, length: int) -> str:
        """Return random letters and digits, for an id."""
        return "".join(self._rng.choices(BASE62, k=length))
