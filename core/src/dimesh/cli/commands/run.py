"""``dimesh run``: the mesh of the settings, in the foreground."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from dimesh.cli.context import import_from_working_folder, state_of, stop_event
from dimesh.cli.context import run as run_async
from dimesh.cli.exit_codes import ExitCode
from dimesh.cli.logs import log_to_stderr
from dimesh.cli.serving import announce, served_mesh

if TYPE_CHECKING:
    import asyncio

    from dimesh.cli.context import State
    from dimesh.systemd import ServiceManager


def run(context: typer.Context) -> None:
    """Run the mesh of dimesh.toml until it is stopped. On SIGINT or SIGTERM it finishes the events being handled and commits
    the positions.
    """
    state = state_of(context)
    import_from_working_folder()
    log_to_stderr(state)
    raise typer.Exit(run_async(_run(state)))


async def _run(state: State) -> int:
    from dimesh.systemd import ServiceManager

    stop = stop_event()
    async with ServiceManager() as manager:
        return await _run_until(stop, state, manager)


async def _run_until(stop: asyncio.Event, state: State, manager: ServiceManager) -> int:
    async with served_mesh(state) as (mesh, server):
        started = await mesh.start()
        announce(state, server)
        for line in started:
            state.output.note(f"started {line}")
        state.output.note("running; stop with Ctrl-C or SIGTERM")
        if state.output.as_json:
            state.output.line({"started": started, **({"address": server.url} if server is not None else {})})
        manager.ready()
        await stop.wait()
        manager.stopping()
        state.output.note("stopping: finishing the events being handled")
        if server is not None:
            await server.stopping()
    return ExitCode.OK
