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
            help="Only this part: bus, registry, cdc, lineage, or the part of a plugin such as stripe."
        ),
    ] = "all",
    folder: Annotated[
        str, typer.Option("--dir", help="The folder for the demo's mesh, which is kept for you to inspect.")
    ] = "mesh-data/demo",
) -> None:
    """Demonstrate a mesh in a few seconds. Shows events, one that cannot be handled, schemas, change capture, lineage."""
    from dimesh.demo import run_demo

    state = state_of(context)
    good = run(run_demo(Path(folder), None if part == "all" else part, state.output))
    raise typer.Exit(ExitCode.OK if good else ExitCode.FAILED)
