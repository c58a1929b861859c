"""A process that registers schemas until it is killed; it writes a line for each version that was acknowledged."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dimesh import LocalSchemaRegistry
from dimesh.spi.registry import Reference


def run(folder: str, name: str) -> None:
    """Register ever new versions of a subject of this process and of one that all share."""
    asyncio.run(_register(Path(folder), name))


async def _register(folder: Path, name: str) -> None:
    with (folder / f"{name}.acknowledged").open("a", encoding="utf-8", buffering=1) as log:
        async with LocalSchemaRegistry(folder / "registry.db", defaults=False) as registry:
            number = len(await registry.store.numbers(name)) if name in await registry.list_subjects() else 0
            while True:
                number += 1
                part = await registry.register(f"{name}.part", {"title": f"part {number} of {name}"})
                log.write(f"{part.subject}\t{part.version}\t{part.schema_id}\t{part.guid}\n")
                for subject in (name, "shared"):
                    made = await registry.register(
                        subject,
                        {"title": f"{number} of {name}"},
                        references=[Reference("part", part.subject, part.version)],
                    )
                    log.write(f"{made.subject}\t{made.version}\t{made.schema_id}\t{made.guid}\n")
