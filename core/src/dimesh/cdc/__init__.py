"""Change data capture: what changes in a system, as events."""

from __future__ import annotations

from dimesh.cdc.connector import CDCConnector, SourceConnector
from dimesh.cdc.events import CDCEvent, CDCOffset
from dimesh.cdc.manager import CDCManager
from dimesh.cdc.state import MemoryState, StateStore
from dimesh.cdc.status import CDCConnectorStatus
from dimesh.cdc.store import SqliteCDCStore
from dimesh.spi.cdc import Operation as CDCOperation

__all__ = [
    "CDCConnector",
    "CDCConnectorStatus",
    "CDCEvent",
    "CDCManager",
    "CDCOffset",
    "CDCOperation",
    "MemoryState",
    "SourceConnector",
    "SqliteCDCStore",
    "StateStore",
]
