"""The description of a mesh that plugins receive."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dimesh.clock import Clock, SystemClock


@dataclass(frozen=True, slots=True)
class PluginContext:
    """The mesh that a provider, an observer, an interceptor or a page is made for."""

    mesh: str = "mesh"
    """The name of the mesh, from ``[mesh] name``."""
    data_dir: Path = Path("mesh-data")
    """The folder for files of the mesh, from ``[mesh] data_dir``. It need not exist yet."""
    clock: Clock = field(default_factory=SystemClock)
    """The clock to use instead of the machine's; tests inject their own."""
