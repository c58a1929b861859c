"""The stored state of change capture as an operator sees it: whose it is, moving it to another name, dropping it.

The state of a connector bears its name: one that is renamed in the settings starts from nothing, and what was stored stays.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dimesh.capabilities import Capability
from dimesh.errors import CDCError
from dimesh.events.names import check_group
from dimesh.ops.capture import open_store, progress_log

if TYPE_CHECKING:
    from dimesh.backends.state.sqlite import SqliteCDCStore
    from dimesh.mesh import Mesh


@dataclass(frozen=True, slots=True)
class ConnectorState:
    """The stored state of one connector."""

    name: str
    configured: bool
    """Whether the settings have a source of this name."""
    running: bool
    """Whether a process captures it now."""
    objects: tuple[str, ...]
    rows: int
    """The number of rows that are remembered, of all objects."""
    reported: str
    """The time of the last report, in ISO 8601; empty if there is none."""
    moving_to: str
    """The name to which the state is being moved, by a command that did not finish; else empty."""


async def list_state(mesh: Mesh) -> list[ConnectorState]:
    """Return whose state is stored. The mesh need not be open."""
    from dimesh.cdc.health import moment
    from dimesh.cdc.reports import load_report

    configured = {section.name for section in mesh.settings.sources}
    found = []
    async with open_store(mesh.settings) as store:
        if not Path(store.path).exists():
            return []
        for name, stored in (await store.connectors()).items():
            report = await load_report(store, name)
            move = await store.moving(name)
            objects = {*stored.objects, *(report.objects if report is not None else ())}
            found.append(
                ConnectorState(
                    name,
                    name in configured,
                    await store.is_claimed(name),
                    tuple(sorted(objects)),
                    stored.rows,
                    moment(report.at) if report is not None else "",
                    move.new if move is not None and move.old == name else "",
                )
            )
    return found


async def move_state(mesh: Mesh, old: str, new: str) -> None:
    """Move all that is stored for one connector to another name. The mesh must be open. A move that was interrupted is finished
    by the next call with the same names; until then, neither connector starts.

    Raises:
        EventError: ``new`` cannot be the name of a connector.
        CDCError: there is nothing to move, ``new`` has state of its own, one of the two runs or takes part in another move.
    """
    from dimesh.cdc.state import progress_key

    check_group(new)
    if old == new:
        raise CDCError(f"{old} is the name that the state has already")
    log = progress_log(mesh)
    async with open_store(mesh.settings) as store, _idle(store, old, new):
        stored = {one.name: one for one in await list_state(mesh)}
        begun = await store.moving(old)
        for move in (begun, await store.moving(new)):
            if move is not None and move != (old, new):
                raise CDCError(str(move))
        if old not in stored and begun is None:
            raise CDCError(f"there is no state of {old}; 'dimesh cdc state list' shows whose there is")
        objects = sorted({*_configured(mesh, old, new), *(stored[old].objects if old in stored else ())})
        keys = {progress_key(old, name): progress_key(new, name) for name in objects}
        if begun is None:
            if new in stored or [key for key in keys.values() if await log.load_raw(key) is not None]:
                raise CDCError(f"{new} has state of its own: 'dimesh cdc state drop {new}' first, or keep it")
            await store.begin_move(old, new)
        if Capability.ATOMIC_STATE in mesh.bus.capabilities:
            # The bus has the progress; the store has everything else, on other buses the progress, too.
            progress = {key: await log.load_raw(key) for key in keys}
            found = {key: value for key, value in progress.items() if value is not None}
            await log.replace({**{keys[key]: value for key, value in found.items()}, **dict.fromkeys(found)})
        await store.finish_move(old, new)


async def drop_state(mesh: Mesh, name: str) -> None:
    """Delete all that is stored for a connector. The mesh must be open. Its next start begins with a snapshot.

    Raises:
        CDCError: there is no state, the connector runs, or its state is being moved.
    """
    from dimesh.cdc.state import progress_key

    log = progress_log(mesh)
    async with open_store(mesh.settings) as store, _idle(store, name):
        stored = {one.name: one for one in await list_state(mesh)}
        move = await store.moving(name)
        if move is not None:
            raise CDCError(str(move))
        if name not in stored:
            raise CDCError(f"there is no state of {name}; 'dimesh cdc state list' shows whose there is")
        objects = {*_configured(mesh, name), *stored[name].objects}
        # The progress goes first: rows without progress are deleted at the next start, progress without rows would not be true.
        await log.replace(dict.fromkeys(progress_key(name, one) for one in sorted(objects)))
        await store.drop(name)


def _configured(mesh: Mesh, *names: str) -> set[str]:
    """Return the objects that the settings name for connectors."""
    return {one for section in mesh.settings.sources if section.name in names for one in section.objects}


@asynccontextmanager
async def _idle(store: SqliteCDCStore, *names: str) -> AsyncIterator[None]:
    """Hold the claims on connectors, so that none of them runs meanwhile.

    Raises:
        CDCError: one of them runs.
    """
    claims = []
    try:
        for name in sorted(names):
            claim = await store.claim(name)
            if claim is None:
                raise CDCError(f"{name} is running, perhaps in another process ('dimesh run'): stop it first")
            claims.append(claim)
        yield
    finally:
        for claim in claims:
            claim.release()
