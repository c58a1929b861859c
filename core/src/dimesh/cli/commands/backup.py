"""``dimesh backup`` and ``dimesh restore``: the embedded files of the mesh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dimesh.cli.context import state_of
from dimesh.cli.progress import Progress

if TYPE_CHECKING:
    from dimesh.cli.context import State
    from dimesh.ops.backup import Manifest
    from dimesh.settings import MeshSettings

    Work = Callable[[MeshSettings, Path, Callable[[str, int, int], object]], Manifest]

_MEGABYTE = 1_000_000


def backup(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="The folder to create; it must not exist.", metavar="DIR")],
) -> None:
    """Copy the embedded files of this mesh to a new folder: bus, capture, registry and lineage. The mesh may be running. What
    a broker or another service keeps is not copied.
    """
    from dimesh.ops.backup import back_up

    _work(state_of(context), folder, back_up, f"backed up to {folder}")


def restore(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="The folder of the backup.", metavar="DIR")],
) -> None:
    """Copy the files of a backup to where the settings have them. Stop the mesh and move its files away before: nothing is
    replaced.
    """
    from dimesh.ops import backup as ops

    _work(state_of(context), folder, ops.restore, f"restored from {folder}")


def _work(state: State, folder: Path, work: Work, done: str) -> None:
    settings = state.loaded.settings
    with Progress(state.output, "copying", None, "MB") as progress:

        def at(part: str, position: int, total: int) -> None:
            progress.set_total(total)
            progress.at(position, position // _MEGABYTE)

        manifest = work(settings, folder, at)
    if state.output.as_json:
        state.output.document(asdict(manifest))
        return
    for file in manifest.files:
        rows = ", ".join(f"{table}: {count:,}" for table, count in file.rows.items() if count)
        state.output.say(f"{file.part}: {file.name}, {file.bytes:,} bytes ({rows or 'empty'})")
    for part, reason in manifest.left_out.items():
        state.output.note(f"{part} is not in the backup: {reason}")
    if manifest.mesh != settings.mesh.name:
        state.output.note(f"the backup is of the mesh {manifest.mesh!r}, not of {settings.mesh.name!r}")
    state.output.say(f"{done}: mesh {manifest.mesh!r}, dimesh {manifest.dimesh}, {manifest.began}")
