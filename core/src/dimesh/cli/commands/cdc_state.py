"""``dimesh cdc state``: what is stored for sources, also for those that the settings no longer name."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from dimesh.cli.context import run, state_of

if TYPE_CHECKING:
    from dimesh.cli.context import State

state_commands = typer.Typer(
    help="List, move and drop what is stored for sources.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@state_commands.command("list")
def list_(context: typer.Context) -> None:
    """List the sources that have stored state: positions, rows, counters and pauses."""
    run(_list(state_of(context)))


async def _list(state: State) -> None:
    from dimesh.ops.capture_state import list_state

    found = await list_state(state.mesh())
    state.output.table(
        ("source", "state", "objects", "rows", "last report"),
        [
            (
                one.name,
                f"being moved to {one.moving_to}"
                if one.moving_to
                else "running"
                if one.running
                else "not running"
                if one.configured
                else "not in the settings",
                ", ".join(one.objects),
                one.rows,
                one.reported,
            )
            for one in found
        ],
        "nothing is stored",
    )


@state_commands.command("move")
def move(
    context: typer.Context,
    old: Annotated[str, typer.Argument(help="The name under which the state is stored.")],
    new: Annotated[str, typer.Argument(help="The name of the source in the settings.")],
) -> None:
    """Move the state of a source that was renamed in the settings. Run it again if it is interrupted. Stop 'dimesh run' first."""
    run(_move(state_of(context), old, new))


async def _move(state: State, old: str, new: str) -> None:
    from dimesh.ops.capture_state import move_state

    async with state.opened() as mesh:
        await move_state(mesh, old, new)
    state.output.note(f"{new} continues where {old} was")


@state_commands.command("drop")
def drop(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The name under which the state is stored.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete the state of a source: if it starts again, it reads all rows. Stop 'dimesh run' first."""
    from dimesh.errors import ConfigurationError

    state = state_of(context)
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigurationError("add --yes: standard input is not a terminal, so nobody can confirm")
        typer.confirm(f"Delete the positions, rows and counters of {name}?", abort=True)
    run(_drop(state, name))


async def _drop(state: State, name: str) -> None:
    from dimesh.ops.capture_state import drop_state

    async with state.opened() as mesh:
        await drop_state(mesh, name)
    state.output.note(f"the state of {name} is deleted")
