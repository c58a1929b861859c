"""The built-in change source: an outbox table in an application's own SQLite database.

The application writes its rows and the outbox in one transaction (by hand, or by the triggers that :func:`watch` creates),
so the outbox holds exactly what was committed. SQLite has one writer at a time, so the order of the outbox's ids is the
order of the commits, and no change can appear behind one that was read already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dimesh.backends.cdc.outbox.source import OutboxOptions, OutboxSource
from dimesh.backends.cdc.outbox.tables import TABLE, install, record, watch
from dimesh.options import parse_options
from dimesh.spi import CONTRACT_VERSION, hookimpl
from dimesh.spi.cdc import CDCSource
from dimesh.spi.context import PluginContext

__all__ = ["TABLE", "OutboxOptions", "OutboxSource", "install", "plugin", "record", "watch"]


class _Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_cdc_source(self, options: Mapping[str, Any], context: PluginContext) -> CDCSource:
        return OutboxSource(parse_options(OutboxOptions, options, "cdc 'outbox'"), context.clock)


plugin = _Plugin()
