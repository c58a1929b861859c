"""Several connectors together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from dimesh.bus.engine import EventBus
from dimesh.cdc.connector import CDCConnector
from dimesh.errors import ConfigurationError

log = logging.getLogger("dimesh.cdc")


class CDCManager:
    """Starts, stops and reports on connectors. One that fails does not touch the others.

    Args:
        event_bus: where their changes go.
    """

    def __init__(self, event_bus: EventBus) -> None:
        self.event_bus = event_bus
        self._connectors: dict[str, CDCConnector] = {}

    def register_connector(self, connector: CDCConnector) -> None:
        """Take a connector in.

        Raises:
            ConfigurationError: its id is taken.
        """
        if connector.connector_id in self._connectors:
            raise ConfigurationError(f"a connector {connector.connector_id!r} is registered already")
        self._connectors[connector.connector_id] = connector

    def get_connector(self, connector_id: str) -> CDCConnector:
        """A connector by id.

        Raises:
            ConfigurationError: (a ValueError) there is none; lists those there are.
        """
        found = self._connectors.get(connector_id)
        if found is None:
            have = ", ".join(sorted(self._connectors)) or "none"
            raise ConfigurationError(f"no connector {connector_id!r} is registered; there are: {have}")
        return found

    async def start_connector(self, connector_id: str, objects: Sequence[str]) -> None:
        """Have a connector follow objects. Raises what :meth:`CDCConnector.start` raises."""
        await self.get_connector(connector_id).start(objects)

    async def stop_connector(self, connector_id: str) -> None:
        """Stop a connector and close its source."""
        await self.get_connector(connector_id).disconnect()

    async def stop_all(self) -> None:
        """Stop every connector."""
        results = await asyncio.gather(
            *(connector.disconnect() for connector in self._connectors.values()), return_exceptions=True
        )
        for connector_id, result in zip(self._connectors, results, strict=True):
            if isinstance(result, BaseException):
                log.warning("connector %s did not stop well", connector_id, exc_info=result)

    def get_status(self) -> dict[str, dict[str, Any]]:
        """By connector id: see :meth:`CDCConnector.get_status`."""
        return {connector_id: connector.get_status() for connector_id, connector in self._connectors.items()}
