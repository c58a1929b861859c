"""``dimesh new plugin``: a complete project as a starting point."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dimesh.cli.context import state_of
from dimesh.errors import ConfigurationError

new = typer.Typer(help="Create a project.", no_args_is_help=True, rich_markup_mode=None)


class Kind(StrEnum):
    """The kind of a plugin."""

    bus = "bus"
    registry = "registry"
    cdc = "cdc"
    lineage = "lineage"
    hooks = "hooks"


@new.callback()
def _group() -> None:
    """Create a project."""


@new.command()
def plugin(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The name of the driver, such as hubspot.")],
    kind: Annotated[Kind, typer.Option(help="The kind of plugin.")],
    folder: Annotated[
        str, typer.Option("--dir", help="The folder in which to create the project's folder.")
    ] = ".",
    author: Annotated[
        str, typer.Option(help="The prefix of the distribution, such as your company's name.")
    ] = "acme",
) -> None:
    """Create a plugin project: settings, a small working implementation, tests, noxfile and README."""
    from dimesh.templates import render

    for text, what in ((name, "name"), (author, "author")):
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", text):
            raise ConfigurationError(
                f"{text[:60]!r} cannot be the {what}: use lower-case letters, digits and '_', and begin with a letter"
            )
    state = state_of(context)
    target = Path(folder) / f"{author}-dimesh-{name}".replace("_", "-")
    if target.exists():
        raise ConfigurationError(f"{target} already exists: remove it, or choose another name or --dir")
    written = render(target, kind.value, name, author)
    if state.output.as_json:
        state.output.document({"project": str(target), "files": [str(path) for path in written]})
        return
    for path in written:
        state.output.say(str(path))
    state.output.note("", "next:", f"  cd {target}", '  pip install -e ".[test]"', "  pytest")
