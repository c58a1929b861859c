"""Options of the memory bus."""

from __future__ import annotations

from typing import Final

from dimesh.options import Options

MAX_PARTITIONS: Final = 1_024


class MemoryOptions(Options, frozen=True):
    """Options of the memory bus."""

    partitions: int = 1
    """The number of partitions of a new topic."""
    history: int = 0
    """The number of handled records that each partition keeps; 0 keeps none."""
    capacity: int = 10_000
    """The number of unhandled records that each stream and partition may hold; a publish beyond it waits. What handlers publish
    may fill as much again, since they may have to publish before they make room themselves."""
