"""Options of the sqlite bus."""

from __future__ import annotations

from typing import Final, Literal

from dimesh.errors import ConfigurationError
from dimesh.spi.options import Options, is_path

MAX_PARTITIONS: Final = 1_024


class SqliteOptions(Options, frozen=True):
    """Options of the sqlite bus."""

    path: str = "mesh-data/mesh.db"
    """The database file; made if it does not exist, with its folder."""
    partitions: int = 4
    """Of a new topic: how many members a group can share it between."""
    retention_seconds: float | None = None
    """Of topics that have no setting of their own; None: keep for ever."""
    retention_bytes: int | None = None
    retention_records: int | None = None
    retention_interval: float = 5.0
    """Seconds between removals of what retention allows to go."""
    synchronous: Literal["full", "normal"] = "full"
    """``normal`` is faster, and a power cut may lose what was acknowledged last."""
    max_queued: int = 100_000
    """Records waiting to be written before a publish waits for room."""
    max_queued_bytes: int = 256 * 1024 * 1024
    lease: float = 15.0
    """Seconds after which a group member that gives no sign is taken for dead (a member whose process ended is
    noticed at once)."""
    poll: float = 0.02
    """Seconds between looks for what other processes wrote."""

    def __post_init__(self) -> None:
        if not 1 <= self.partitions <= MAX_PARTITIONS:
            raise ConfigurationError(f"bus 'sqlite': partitions must be 1 to {MAX_PARTITIONS}")
        if not is_path(self.path):
            raise ConfigurationError("bus 'sqlite': path must name a file")
        for name in ("lease", "poll", "max_queued", "max_queued_bytes", "retention_interval"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"bus 'sqlite': {name} must be positive")
        for name in ("retention_seconds", "retention_bytes", "retention_records"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigurationError(
                    f"bus 'sqlite': {name} must be positive, or left out to keep for ever"
                )
