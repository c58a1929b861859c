"""``dimesh init``: a mesh that runs, as a starting point."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from dimesh.cli.context import state_of
from dimesh.errors import ConfigurationError


def init(
    context: typer.Context,
    folder: Annotated[
        str, typer.Argument(help="The folder of the project; created if it does not exist.")
    ] = ".",
) -> None:
    """Create a project that runs: dimesh.toml, a handler and a README. Existing files are never replaced."""
    from dimesh.templates import render_mesh

    if "\0" in folder:
        raise ConfigurationError("the name of the folder contains a NUL character")
    target = Path(folder)
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", target.resolve().name).strip("-")[:60] or "mesh"
    written = render_mesh(target, name)
    out = state_of(context).output
    if out.as_json:
        out.document({"project": str(target), "files": [str(path) for path in written]})
        return
    out.say(*map(str, written))
    steps = ["dimesh run", "dimesh publish orders --payload '{\"order\": 7}'   # in a second terminal"]
    if folder != ".":
        steps.insert(0, f"cd {shlex.quote(folder)}")
    out.note("", "next:", *(f"  {step}" for step in steps))
