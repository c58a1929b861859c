"""The entry point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dimesh.clock import Clock
from dimesh.hookspecs import CONTRACT_VERSION, hookimpl
from dimesh.spi.cdc import CDCSource
from dimesh.spi.options import parse_options
from dimesh_salesforce.options import SalesforceOptions


class _Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_cdc_source(self, options: Mapping[str, Any], clock: Clock) -> CDCSource:
        from dimesh_salesforce.source import SalesforceSource

        return SalesforceSource(parse_options(SalesforceOptions, options, "source 'salesforce'"), clock)


plugin = _Plugin()
