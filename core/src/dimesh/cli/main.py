"""Entry point of the ``dimesh`` command.

``dimesh``, ``dimesh --help`` and ``dimesh --version`` are answered here, from a text that is kept beside this module
and checked against the real one by a test: building the whole command tree takes several times as long.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

HELP = Path(__file__).with_name("help.txt")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in ([], ["--help"], ["-h"]) and "_DIMESH_COMPLETE" not in os.environ and HELP.exists():
        _finish(lambda: sys.stdout.write(HELP.read_text("utf-8")) and 0)
    if given == ["--version"]:
        from dimesh import __version__

        _finish(lambda: sys.stdout.write(f"dimesh {__version__}\n") and 0)
    from dimesh.cli.guard import guarded

    _finish(lambda: guarded(given))


def _finish(work: object) -> None:
    try:
        code = work()  # type: ignore[operator]
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has had enough ('| head'). Python would complain once more when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)
