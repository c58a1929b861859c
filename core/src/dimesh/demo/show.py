"""Runs the parts of the demo and prints what they did. Everything printed was read back from the mesh."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dimesh.demo import bus, cdc, lineage, registry
from dimesh.demo.stage import Stage
from dimesh.discovery import companions
from dimesh.errors import ConfigurationError

if TYPE_CHECKING:
    from dimesh.cli.output import Output

PARTS: dict[str, tuple[str, Callable[[Stage], Awaitable[None]]]] = {
    "bus": ("Events on a durable bus", bus.play),
    "registry": ("A schema that is enforced", registry.play),
    "cdc": ("A change feed from an application's database", cdc.play),
    "lineage": ("Where did it come from, what would it touch?", lineage.play),
}


def parts() -> dict[str, tuple[str, Callable[[Stage], Awaitable[None]]]]:
    """Our parts, and those that installed plugins bring: a module ``demo`` with ``TITLE`` and ``play(stage)``."""
    found = dict(PARTS)
    for name, module in companions("demo").items():
        loaded = importlib.import_module(module)
        found[name] = (loaded.TITLE, loaded.play)
    return found


async def run_demo(folder: Path, part: str | None, output: Output) -> bool:
    """Play one part or all; True if each did what it should.

    Args:
        folder: made anew; holds the mesh afterwards.
        part: one of :func:`parts`; None: all.
        output: where to print.

    Raises:
        ConfigurationError: no such part.
    """
    known = parts()
    if part is not None and part not in known:
        raise ConfigurationError(
            f"the demo has no part {part!r:.60}; there are: {', '.join(known)} (plugins bring more)"
        )
    if folder.exists() and (folder / ".dimesh-demo").exists():
        shutil.rmtree(folder)  # our own, from last time
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".dimesh-demo").write_text(
        "made by 'dimesh demo', which replaces this folder at its next run\n"
    )
    stage = Stage(folder, output)
    stage.title(folder)
    for name, (title, play) in known.items():
        if part is None or part == name:
            stage.act(name, title)
            await play(stage)
    stage.end()
    return stage.good
