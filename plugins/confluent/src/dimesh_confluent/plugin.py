"""The entry point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dimesh.options import parse_options
from dimesh.spi import CONTRACT_VERSION, hookimpl
from dimesh.spi.context import PluginContext
from dimesh.spi.registry import RegistryStore


class _Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_registry_store(self, options: Mapping[str, Any], context: PluginContext) -> RegistryStore:
        from dimesh_confluent.options import WHERE, ConfluentOptions
        from dimesh_confluent.store import ConfluentStore

        return ConfluentStore(parse_options(ConfluentOptions, options, WHERE), context.clock)


plugin = _Plugin()
