"""Change data capture: the changes in a system as events."""

from __future__ import annotations

from dimesh.cdc.connector import CDCConnector
from dimesh.cdc.events import CDCEvent, CDCOffset
from dimesh.cdc.manager import CDCManager
from dimesh.cdc.source_connector import SourceConnector
from dimesh.cdc.state import MemoryState
from dimesh.cdc.status import CDCConnectorStatus
from dimesh.spi.cdc import Operation as CDCOperation
from dimesh.spi.state import StateStore

__all__ = [
    "CDCConnector",
    "CDCConnectorStatus",
    "CDCEvent",
    "CDCManager",
    "CDCOffset",
    "CDCOperation",
    "MemoryState",
    "SourceConnector",
    "StateStore",
]
