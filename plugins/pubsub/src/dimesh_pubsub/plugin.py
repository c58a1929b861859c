"""The entry point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dimesh.clock import Clock
from dimesh.hookspecs import CONTRACT_VERSION, hookimpl
from dimesh.spi.bus import BusBackend
from dimesh.spi.options import parse_options
from dimesh_pubsub.options import PubSubOptions


class _Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_bus_backend(self, options: Mapping[str, Any], clock: Clock) -> BusBackend:
        from dimesh_pubsub.backend import PubSubBackend

        return PubSubBackend(parse_options(PubSubOptions, options, "bus 'pubsub'"), clock)


plugin = _Plugin()
