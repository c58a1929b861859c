"""The entry point of the plugin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dimesh.options import parse_options
from dimesh.spi import CONTRACT_VERSION, hookimpl
from dimesh.spi.bus import BusBackend
from dimesh.spi.context import PluginContext
from dimesh_kafka.options import WHERE, KafkaOptions


class _Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_bus_backend(self, options: Mapping[str, Any], context: PluginContext) -> BusBackend:
        from dimesh_kafka.backend import KafkaBackend

        return KafkaBackend(parse_options(KafkaOptions, options, WHERE), context.clock, context.registry)


plugin = _Plugin()
