"""The entry point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dimesh.options import parse_options
from dimesh.spi import CONTRACT_VERSION, hookimpl
from dimesh.spi.cdc import CDCSource
from dimesh.spi.context import PluginContext
from dimesh_zendesk.options import ZendeskOptions


class _Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_cdc_source(self, options: Mapping[str, Any], context: PluginContext) -> CDCSource:
        from dimesh_zendesk.source import ZendeskSource

        return ZendeskSource(parse_options(ZendeskOptions, options, "source 'zendesk'"), context.clock)


plugin = _Plugin()
