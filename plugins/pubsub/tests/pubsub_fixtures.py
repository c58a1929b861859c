"""Shared parts of the tests of the Pub/Sub bus: its capabilities, and backends on a server."""

from __future__ import annotations

from typing import Any

from dimesh.capabilities import Capability
from dimesh.clock import SystemClock
from dimesh.options import parse_options
from dimesh_pubsub.backend import PubSubBackend
from dimesh_pubsub.options import PubSubOptions

OFFERS = {
    Capability.DURABLE,
    Capability.POWER_SAFE,
    Capability.LOOK_BACK,
    Capability.START_BY_TIME,
    Capability.GROUPS,
    Capability.MULTI_PROCESS,
    Capability.KEY_ORDER,
    Capability.FILTER_PUSHDOWN,
    Capability.AGE_RETENTION,
    Capability.TOPIC_ADMIN,
    Capability.NATIVE_LEASE,
}
"""The capabilities of the bus, as its tests declare them to the kits."""
FAST = {"lease": 10.0, "look_back_quiet": 0.3, "ack_interval": 0.02}


def options(address: str, project: str, **more: Any) -> dict[str, Any]:
    """Return the options of a bus on a local server."""
    return {"project_id": project, "emulator_host": address, **FAST, **more}


def backend(address: str, project: str, **more: Any) -> PubSubBackend:
    """Return a backend that is not open yet."""
    return PubSubBackend(
        parse_options(PubSubOptions, options(address, project, **more), "bus 'pubsub'"), SystemClock()
    )
