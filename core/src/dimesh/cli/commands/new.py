"""``dimesh new plugin``: a complete project to start from."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dimesh.cli.context import state_of
from dimesh.errors import ConfigurationError

new = typer.Typer(help="Begin something new.", no_args_is_help=True, rich_markup_mode=None)


class Kind(StrEnum):
    """Kinds of plugins."""

    bus = "bus"
    registry = "registry"
    cdc = "cdc"
    lineage = "lineage"
    hooks = "hooks"


@new.callback()
def _group() -> None:
    """Begin something new."""


@new.command()
def plugin(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the driver, such as hubspot.")],
    kind: Annotated[Kind, typer.Option(help="What it plugs in to.")],
    folder: Annotated[str, typer.Option("--dir", help="Where to make the project's folder.")] = ".",
    author: Annotated[str, typer.Option(help="Prefix of the distribution, as your company's name.")] = "acme",
) -> None:
    """Write a plugin project: settings, a small working implementation, tests, noxfile, README with two commands."""
    from dimesh.templates import render

    for text, what in ((name, "name"), (author, "author")):
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", text):
            raise ConfigurationError(
                f"{text[:60]!r} cannot be the {what}: use lower-case letters, digits and '_', beginning with a letter"
            )
    state = state_of(context)
    target = Path(folder) / f"{author}-dimesh-{name}".replace("_", "-")
    if target.exists():
        raise ConfigurationError(f"{target} exists; remove it, or choose another name or --dir")
    written = render(target, kind.value, name, author)
    if state.output.as_json:
        state.output.document({"project": str(target), "files": [str(path) for path in written]})
        return
    for path in written:
        state.output.say(str(path))
    state.output.note(f"\nnext:\n  cd {target}\n  pip install -e . --group test\n  pytest")
