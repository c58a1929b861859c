"""The memory bus: the reference for all backends, and the one for tests and single processes."""

from __future__ import annotations

from dimesh.backends.memory.backend import MemoryBackend
from dimesh.backends.memory.options import MemoryOptions
from dimesh.backends.memory.plugin import plugin

__all__ = ["MemoryBackend", "MemoryOptions", "plugin"]
