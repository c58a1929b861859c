"""``dimesh demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dimesh.cli.context import run, state_of
from dimesh.cli.exit_codes import ExitCode


def demo(
    context: typer.Context,
    part: Annotated[
        str,
        typer.Option(
            help="Only this part: bus, registry, cdc, lineage, or one that a plugin brings (stripe)."
        ),
    ] = "all",
    folder: Annotated[
        str, typer.Option("--dir", help="Where the demo's mesh is made, and left for you to look at.")
    ] = "mesh-data/demo",
) -> None:
    """Show what a mesh does: events, a poisoned one, schemas, a change feed, lineage. Takes a few seconds."""
    from dimesh.demo import run_demo

    state = state_of(context)
    good = run(run_demo(Path(folder), None if part == "all" else part, state.output))
    raise typer.Exit(ExitCode.OK if good else ExitCode.FAILED)
