"""Shell completion of the names of topics and groups: within a bounded time, and silent on every error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import typer

if TYPE_CHECKING:
    from dimesh.bus.engine import EventBus

SECONDS: Final = 1.5
"""The time after which nothing is proposed: a person waits at the prompt."""


def topic_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the topics whose names begin with a text; dimesh's own only if it begins like theirs."""
    return _names(context, incomplete, _topics)


def group_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the consumer groups whose names begin with a text."""
    return _names(context, incomplete, _groups)


async def _topics(bus: EventBus) -> set[str]:
    from dimesh.ops.topics import list_topics

    return {summary.topic for summary in await list_topics(bus)}


async def _groups(bus: EventBus) -> set[str]:
    from dimesh.ops.topics import list_partitions

    return {progress.group for progress in await list_partitions(bus)}


def _names(
    context: typer.Context, incomplete: str, read: Callable[[EventBus], Awaitable[set[str]]]
) -> list[str]:
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


async def _read(given: dict[str, Any], read: Callable[[EventBus], Awaitable[set[str]]]) -> set[str]:
    from pathlib import Path

    from dimesh.cli.context import State

    bus = State(config=given.get("config_file"), bus_path=given.get("bus_path")).mesh().bus
    path = bus.door.path
    if path is not None and not Path(path).exists():
        return set()  # opening the bus would create the file
    await bus.open()
    try:
        return await read(bus)
    finally:
        await bus.close()
