"""How a connector is."""

from __future__ import annotations

from enum import Enum


class CDCConnectorStatus(Enum):
    """Of a connector as a whole."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    SYNCING = "syncing"
    """A snapshot is being read."""
    ERROR = "error"
    """Some object cannot be captured; the others go on."""
    PAUSED = "paused"
