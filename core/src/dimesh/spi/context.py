"""The description of a mesh that plugins receive."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from dimesh.clock import Clock, SystemClock
from dimesh.spi.registry import RegistryStore


@dataclass(frozen=True, slots=True)
class PluginContext:
    """The mesh that a provider, an observer, an interceptor or a page is made for."""

    mesh: str = "mesh"
    """The name of the mesh, from ``[mesh] name``."""
    data_dir: Path = Path("mesh-data")
    """The folder for files of the mesh, from ``[mesh] data_dir``. It need not exist yet."""
    clock: Clock = field(default_factory=SystemClock)
    """The clock to use instead of the machine's; tests inject their own."""
    registry: Callable[[], Awaitable[RegistryStore]] | None = None
    """Opens the schema store of the mesh, at the first call, and returns it, for a bus that writes ids of schemas; None: there is
    no mesh. The store belongs to the mesh, which closes it."""
