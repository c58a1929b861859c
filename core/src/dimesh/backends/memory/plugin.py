"""The entry point of the memory bus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dimesh.backends.memory.backend import MemoryBackend
from dimesh.backends.memory.options import MemoryOptions
from dimesh.clock import Clock
from dimesh.hookspecs import CONTRACT_VERSION, hookimpl
from dimesh.spi.bus import (
    BusBackend,
)
from dimesh.spi.options import parse_options


class _Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_bus_backend(self, options: Mapping[str, Any], clock: Clock) -> BusBackend:
        return MemoryBackend(parse_options(MemoryOptions, options, "bus 'memory'"), clock)


plugin = _Plugin()
