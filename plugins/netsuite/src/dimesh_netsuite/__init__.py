"""Change data capture from NetSuite for dimesh."""

from __future__ import annotations

from dimesh_netsuite.connector import NetSuiteCDCConnector
from dimesh_netsuite.source import NetSuiteSource

__all__ = ["NetSuiteCDCConnector", "NetSuiteSource"]
