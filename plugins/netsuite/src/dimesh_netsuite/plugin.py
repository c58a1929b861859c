"""The entry point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dimesh.options import parse_options
from dimesh.spi import CONTRACT_VERSION, hookimpl
from dimesh.spi.cdc import CDCSource
from dimesh.spi.context import PluginContext
from dimesh_netsuite.options import NetSuiteOptions


class _Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_cdc_source(self, options: Mapping[str, Any], context: PluginContext) -> CDCSource:
        from dimesh_netsuite.source import NetSuiteSource

        return NetSuiteSource(parse_options(NetSuiteOptions, options, "source 'netsuite'"), context.clock)


plugin = _Plugin()
