"""The entry point of the sqlite bus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dimesh.options import parse_options
from dimesh.spi import CONTRACT_VERSION, hookimpl
from dimesh.spi.bus import BusBackend
from dimesh.spi.context import PluginContext


class _Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_bus_backend(self, options: Mapping[str, Any], context: PluginContext) -> BusBackend:
        from dimesh.backends.bus.sqlite.backend import SqliteBackend
        from dimesh.backends.bus.sqlite.options import SqliteOptions

        return SqliteBackend(parse_options(SqliteOptions, options, "bus 'sqlite'"), context.clock)


plugin = _Plugin()
