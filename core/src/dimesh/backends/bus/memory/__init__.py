"""The memory bus: the reference for all backends, for tests and single processes."""

from __future__ import annotations

from dimesh.backends.bus.memory.backend import MemoryBackend
from dimesh.backends.bus.memory.options import MemoryOptions
from dimesh.backends.bus.memory.plugin import plugin

__all__ = ["MemoryBackend", "MemoryOptions", "plugin"]
