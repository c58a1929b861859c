"""Runs the parts of the demo and prints the results, all of which are read back from the mesh."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from dimesh.demo import bus, cdc, lineage, registry
from dimesh.demo.stage import Output, Stage
from dimesh.errors import ConfigurationError
from dimesh.plugins.discovery import companion_modules

PARTS: dict[str, tuple[str, Callable[[Stage], Awaitable[None]]]] = {
    "bus": ("Events on a durable bus", bus.play),
    "registry": ("A schema that is enforced", registry.play),
    "cdc": ("A change feed from an application's database", cdc.play),
    "lineage": ("Where does data come from, and what would a change affect?", lineage.play),
}


def parts() -> dict[str, tuple[str, Callable[[Stage], Awaitable[None]]]]:
    """Return the parts of the core and of installed plugins, which have a module ``demo`` with ``TITLE`` and ``play(stage)``."""
    found = dict(PARTS)
    for name, module in companion_modules("demo").items():
        loaded = importlib.import_module(module)
        found[name] = (loaded.TITLE, loaded.play)
    return found


async def run_demo(folder: Path, part: str | None, output: Output) -> bool:
    """Run one part or all parts.

    Args:
        folder: the folder for the mesh; one of an earlier demo is replaced.
        part: one of :func:`parts`; None: all.
        output: the output.

    Returns:
        Whether every step succeeded.

    Raises:
        ConfigurationError: there is no such part.
    """
    known = parts()
    if part is not None and part not in known:
        raise ConfigurationError(
            f"the demo has no part {part!r:.60}; the parts are: {', '.join(known)} (plugins add more)"
        )
    if folder.exists() and (folder / ".dimesh-demo").exists():
        shutil.rmtree(folder)  # of an earlier demo
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".dimesh-demo").write_text(
        "created by 'dimesh demo', which replaces this folder at its next run\n"
    )
    stage = Stage(folder, output)
    stage.title(folder)
    for name, (title, play) in known.items():
        if part is None or part == name:
            stage.act(name, title)
            await play(stage)
    stage.end()
    return stage.good
