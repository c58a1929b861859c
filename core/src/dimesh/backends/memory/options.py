"""Options of the memory bus."""

from __future__ import annotations

from typing import Final

from dimesh.spi.options import Options

MAX_PARTITIONS: Final = 1_024


class MemoryOptions(Options, frozen=True):
    """Options of the memory bus."""

    partitions: int = 1
    """Of a new topic."""
    history: int = 0
    """Handled records to keep for each partition; 0: nothing is kept after handling."""
    capacity: int = 10_000
    """Unhandled records for each stream and partition; a publish into a full one waits."""
