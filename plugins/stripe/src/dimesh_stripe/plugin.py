"""The entry point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dimesh.options import parse_options
from dimesh.spi import CONTRACT_VERSION, hookimpl
from dimesh.spi.cdc import CDCSource
from dimesh.spi.context import PluginContext
from dimesh_stripe.options import StripeOptions


class _Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_cdc_source(self, options: Mapping[str, Any], context: PluginContext) -> CDCSource:
        from dimesh_stripe.connected import make_source

        return make_source(parse_options(StripeOptions, options, "source 'stripe'"), context.clock)


plugin = _Plugin()
