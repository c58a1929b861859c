"""Entry point of the ``dimesh`` command.

``dimesh``, ``dimesh --help`` and ``dimesh --version`` are answered here, from a stored text that a test compares with the
generated one: building the whole command tree takes several times as long. The stored text contains no
commands of plugins; where a plugin may have added some, the tree is built.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

HELP = Path(__file__).with_name("help.txt")
WITHOUT_COMMANDS = {b"otel = dimesh_otel.plugin:plugin"}
"""The plugins of this repository that could add commands, as far as anybody knows without importing them, and add none."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in ([], ["--help"], ["-h"]) and "_DIMESH_COMPLETE" not in os.environ and HELP.exists():
        if not _commands_may_be_added():
            _finish(lambda: sys.stdout.write(HELP.read_text("utf-8")) and 0)
    if given == ["--version"]:
        from dimesh import __version__

        _finish(lambda: sys.stdout.write(f"dimesh {__version__}\n") and 0)
    from dimesh.cli.errors import guarded

    _finish(lambda: guarded(given))


def _commands_may_be_added() -> bool:
    """Return whether a distribution on the path has plugins of the group ``dimesh.hooks``, other than those that add no command.

    Reads the files that importlib.metadata would read; importing and asking that takes ten times as long. The answer
    only decides whether the kept text is used: plugins are found by :mod:`dimesh.plugins.discovery`.
    """
    for folder in sys.path:
        try:
            infos = [entry.path for entry in os.scandir(folder or ".") if entry.name.endswith("-info")]
        except OSError:
            continue
        for info in infos:
            try:
                with open(os.path.join(info, "entry_points.txt"), "rb") as file:
                    if _hooks_of(file.read()) - WITHOUT_COMMANDS:
                        return True
            except OSError:
                continue
    return False


def _hooks_of(entry_points: bytes) -> set[bytes]:
    """Return the lines of the group ``dimesh.hooks`` of a file of entry points."""
    _, found, rest = entry_points.partition(b"[dimesh.hooks]")
    return set(rest.partition(b"[")[0].split(b"\n")) - {b""} if found else set()


def _finish(work: object) -> None:
    try:
        code = work()  # type: ignore[operator]
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has closed the pipe, as '| head' does. Python would report that again when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)
