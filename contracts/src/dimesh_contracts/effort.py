"""How much the heavy tests do: little by default, so that a kit is run often, and more on request."""

from __future__ import annotations

from typing import Final

EXAMPLES: Final = 25
"""The examples of the state machine by default."""
FIXED_SEED: Final = 20_240_229
"""The seed where nobody asks for another one."""

_examples = EXAMPLES
_seed = FIXED_SEED


def configure(examples: int, seed: int) -> None:
    """Set the number of examples of the state machine and its seed; the load tests grow with the number."""
    global _examples, _seed
    _examples, _seed = max(examples, 1), seed


def examples() -> int:
    """Return the number of examples of the state machine."""
    return _examples


def seed() -> int:
    """Return the seed of the state machine."""
    return _seed


def load(usual: int) -> int:
    """Return how many events or members a load test has that usually has ``usual`` of them."""
    return max(usual * _examples // EXAMPLES, 1)
