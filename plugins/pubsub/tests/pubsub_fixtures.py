"""Backends on a server."""

from __future__ import annotations

from typing import Any

from dimesh.clock import SystemClock
from dimesh.spi.options import parse_options
from dimesh_pubsub.backend import PubSubBackend
from dimesh_pubsub.options import PubSubOptions

FAST = {"lease": 10.0, "look_back_quiet": 0.3, "ack_interval": 0.02}


def options(address: str, project: str, **more: Any) -> dict[str, Any]:
    """Options of a bus on a server of loopback."""
    return {"project_id": project, "emulator_host": address, **FAST, **more}


def backend(address: str, project: str, **more: Any) -> PubSubBackend:
    """A backend, not opened."""
    return PubSubBackend(
        parse_options(PubSubOptions, options(address, project, **more), "bus 'pubsub'"), SystemClock()
    )
