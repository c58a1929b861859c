"""``dimesh demo``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dimesh.cli.context import run, state_of
from dimesh.cli.exit_codes import ExitCode


class Part(StrEnum):
    """Parts of the demo."""

    all = "all"
    bus = "bus"
    registry = "registry"
    cdc = "cdc"
    lineage = "lineage"


def demo(
    context: typer.Context,
    part: Annotated[Part, typer.Option(help="Only this part.")] = Part.all,
    folder: Annotated[
        str, typer.Option("--dir", help="Where the demo's mesh is made, and left for you to look at.")
    ] = "mesh-data/demo",
) -> None:
    """Show what a mesh does: events, a poisoned one, schemas, a change feed, lineage. Takes a few seconds."""
    from dimesh.demo import run_demo

    state = state_of(context)
    good = run(run_demo(Path(folder), None if part is Part.all else part.value, state.output))
    raise typer.Exit(ExitCode.OK if good else ExitCode.FAILED)
