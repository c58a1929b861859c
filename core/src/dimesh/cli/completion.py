"""Shell completion of the names of topics, groups and subjects: within a bounded time, and silent on every error."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

if TYPE_CHECKING:
    from dimesh.bus.engine import EventBus
    from dimesh.mesh import Mesh

SECONDS: Final = 1.5
"""The time after which nothing is proposed: a person waits at the prompt."""


def topic_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the topics whose names begin with a text; dimesh's own only if it begins like theirs."""
    return _names(context, incomplete, _topics)


def group_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the consumer groups whose names begin with a text."""
    return _names(context, incomplete, _groups)


def subject_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the subjects of the registry whose names begin with a text."""
    return _names(context, incomplete, _subjects)


async def _topics(mesh: Mesh) -> set[str]:
    from dimesh.ops.topics import list_topics

    async with _bus(mesh) as bus:
        return {summary.topic for summary in await list_topics(bus)} if bus is not None else set()


async def _groups(mesh: Mesh) -> set[str]:
    from dimesh.ops.topics import list_partitions

    async with _bus(mesh) as bus:
        return {progress.group for progress in await list_partitions(bus)} if bus is not None else set()


@asynccontextmanager
async def _bus(mesh: Mesh) -> AsyncIterator[EventBus | None]:
    """Open the bus; None if opening it would create its file."""
    path = mesh.bus.door.path
    if path is not None and not Path(path).exists():
        yield None
        return
    await mesh.bus.open()
    try:
        yield mesh.bus
    finally:
        await mesh.bus.close()


async def _subjects(mesh: Mesh) -> set[str]:
    registry = mesh.registry
    path = getattr(registry.store, "path", None)
    if path is not None and not Path(path).exists():
        return set()  # opening the registry would create the file
    try:
        return set(await registry.list_subjects())
    finally:
        await registry.close()


def _names(context: typer.Context, incomplete: str, read: Callable[[Mesh], Awaitable[set[str]]]) -> list[str]:
    import logging
    import os
    import threading

    from dimesh.bus.topics import OWN

    given = context.find_root().params
    found: set[str] = set()
    logging.disable()

    def work() -> None:
        import asyncio
        import contextlib

        with contextlib.suppress(BaseException):  # whatever fails: completion has nothing to propose
            found.update(asyncio.run(_read(given, read)))

    # A thread, since the look-up of a host's name cannot be cancelled.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if thread.is_alive():
        os._exit(0)
    return sorted(
        name
        for name in found
        if name.startswith(incomplete) and (incomplete or not name.startswith(("__", OWN)))
    )


async def _read(given: dict[str, Any], read: Callable[[Mesh], Awaitable[set[str]]]) -> set[str]:
    from dimesh.cli.context import State

    return await read(State(config=given.get("config_file"), bus_path=given.get("bus_path")).mesh())
