"""The work of a process that sends dead letters back with a version of their schema."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from dimesh import EventBus, EventBusFactory, LocalSchemaRegistry
from dimesh.bus.redrive import DeadLetters
from dimesh.bus.schema_rules import Action, SchemaRule
from dimesh.ops.mending import SchemaMending

RULE = SchemaRule(("orders",), publish=Action.DEAD_LETTER)


def registry_in(folder: str) -> LocalSchemaRegistry:
    """Return the registry of a folder."""
    return LocalSchemaRegistry(Path(folder) / "registry.db", defaults=False)


def bus_in(folder: str, registry: Any) -> EventBus:
    """Return the bus of a folder."""
    path = str(Path(folder) / "mesh.db")
    return EventBusFactory.create("sqlite", path=path, registry=registry, schemas=[RULE])


def run(folder: str) -> None:
    """Redrive everything that satisfies the newest version."""
    asyncio.run(_run(folder))


async def _run(folder: str) -> None:
    async with registry_in(folder) as registry, bus_in(folder, registry) as bus:
        await DeadLetters(bus).redrive("orders", prepare=SchemaMending(registry, [RULE]).prepare)
