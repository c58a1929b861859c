"""Options of the sqlite bus."""

from __future__ import annotations

from typing import Final, Literal

from dimesh.errors import ConfigurationError
from dimesh.options import Options, is_path

MAX_PARTITIONS: Final = 1_024
MAX_RECORD: Final = 1_000_000_000 - 10_000
"""The largest record in bytes. SQLite's limit for a row is 1,000,000,000 bytes (https://www.sqlite.org/limits.html, item 1)."""


class SqliteOptions(Options, frozen=True):
    """Options of the sqlite bus."""

    path: str = "mesh-data/mesh.db"
    """The database file; it is created with its folder if it does not exist."""
    partitions: int = 4
    """The number of partitions of a new topic, and so of members that can share it in a group."""
    retention_seconds: float | None = None
    """The age in seconds at which records are removed, for topics without a setting of their own; None keeps them for ever."""
    retention_bytes: int | None = None
    """The same by the size of a topic."""
    retention_records: int | None = None
    """The same by the number of records of a topic."""
    retention_interval: float = 5.0
    """Seconds between removals of records that retention no longer covers."""
    synchronous: Literal["full", "normal"] = "full"
    """``normal`` is faster, but a power cut may lose the records that were acknowledged last."""
    max_queued: int = 100_000
    """The number of records that may wait to be written; a publish beyond it waits for room."""
    max_queued_bytes: int = 256 * 1024 * 1024
    """The same in bytes."""
    lease: float = 15.0
    """Seconds without a heartbeat after which a process counts as dead, and its partitions go to others. A process sends
    heartbeats while it lives, however long its handlers take; the end of a process is noticed at once by processes of the same
    container, and after the lease by others."""
    stall: float = 600.0
    """Seconds for which a process keeps its partitions although a handler blocks its event loop; longer than ``handler_timeout``,
    which cannot end such a handler."""
    poll: float = 0.02
    """Seconds between checks for records of other processes."""

    def __post_init__(self) -> None:
        if not 1 <= self.partitions <= MAX_PARTITIONS:
            raise ConfigurationError(f"partitions must be 1 to {MAX_PARTITIONS}")
        if not is_path(self.path):
            raise ConfigurationError("path must name a file")
        for name in ("lease", "stall", "poll", "max_queued", "max_queued_bytes", "retention_interval"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"{name} must be positive")
        for name in ("retention_seconds", "retention_bytes", "retention_records"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigurationError(f"{name} must be positive, or left out to keep for ever")
