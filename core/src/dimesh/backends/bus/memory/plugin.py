"""The entry point of the memory bus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dimesh.backends.bus.memory.backend import MemoryBackend
from dimesh.backends.bus.memory.options import MemoryOptions
from dimesh.options import parse_options
from dimesh.spi import CONTRACT_VERSION, hookimpl
from dimesh.spi.bus import (
    BusBackend,
)
from dimesh.spi.context import PluginContext


class _Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_bus_backend(self, options: Mapping[str, Any], context: PluginContext) -> BusBackend:
        return MemoryBackend(parse_options(MemoryOptions, options, "bus 'memory'"), context.clock)


plugin = _Plugin()
