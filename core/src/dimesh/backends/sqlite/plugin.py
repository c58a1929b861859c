"""The entry point of the sqlite bus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dimesh.clock import Clock
from dimesh.hookspecs import CONTRACT_VERSION, hookimpl
from dimesh.spi.bus import BusBackend
from dimesh.spi.options import parse_options


class _Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_bus_backend(self, options: Mapping[str, Any], clock: Clock) -> BusBackend:
        from dimesh.backends.sqlite.backend import SqliteBackend
        from dimesh.backends.sqlite.options import SqliteOptions

        return SqliteBackend(parse_options(SqliteOptions, options, "bus 'sqlite'"), clock)


plugin = _Plugin()
