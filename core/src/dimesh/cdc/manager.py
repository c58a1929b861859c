"""The manager: several connectors, started and stopped together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from dimesh.bus.engine import EventBus
from dimesh.cdc.connector import CDCConnector
from dimesh.cdc.reports import SourceReport
from dimesh.errors import ConfigurationError

log = logging.getLogger("dimesh.cdc")


class CDCManager:
    """Starts and stops connectors and reports their status. A connector that fails does not affect the others.

    Args:
        event_bus: the bus for their changes.
    """

    def __init__(self, event_bus: EventBus) -> None:
        self.event_bus = event_bus
        self._connectors: dict[str, CDCConnector] = {}

    def register_connector(self, connector: CDCConnector) -> None:
        """Register a connector.

        Raises:
            ConfigurationError: a connector with this id is registered already.
        """
        if connector.connector_id in self._connectors:
            raise ConfigurationError(f"a connector {connector.connector_id!r} is registered already")
        self._connectors[connector.connector_id] = connector

    def get_connector(self, connector_id: str) -> CDCConnector:
        """Return a connector by its id.

        Raises:
            ConfigurationError: (a ValueError) there is no such connector; the message lists the registered ones.
        """
        found = self._connectors.get(connector_id)
        if found is None:
            have = ", ".join(sorted(self._connectors)) or "none"
            raise ConfigurationError(
                f"no connector {connector_id!r} is registered; the registered connectors are: {have}"
            )
        return found

    async def start_connector(self, connector_id: str, objects: Sequence[str]) -> None:
        """Start to capture objects with a connector. Raises the errors of :meth:`CDCConnector.start`."""
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
                log.warning("connector %s failed while it stopped", connector_id, exc_info=result)

    def get_status(self) -> dict[str, dict[str, Any]]:
        """Return the status of every connector by its id; see :meth:`CDCConnector.get_status`."""
        return {connector_id: connector.get_status() for connector_id, connector in self._connectors.items()}

    def reports(self) -> dict[str, SourceReport]:
        """Return the state of every connector as operators see it, by its id."""
        return {connector_id: connector.report() for connector_id, connector in self._connectors.items()}
