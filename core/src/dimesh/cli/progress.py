"""The progress of a long command: a bar on a terminal, JSON lines elsewhere, nothing with ``--quiet``."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from dimesh.cli.output import Output

EVERY = 2.0
"""Seconds between JSON lines."""


class Progress:
    """A context manager that shows progress while :meth:`at` is called.

    Args:
        output: where to show the progress.
        what: the name of the work.
        total: the final position (bytes, records); None if unknown.
        unit: the unit of the second figure of :meth:`at`.
    """

    def __init__(self, output: Output, what: str, total: int | None, unit: str = "events") -> None:
        self._output = output
        self._what = what
        self._total = total
        self._unit = unit
        self._bar: Any = None
        self._task: Any = None
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        if self._output.interactive:
            from rich import progress

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.TextColumn("{task.fields[done]} " + self._unit),
                progress.TimeRemainingColumn(),
                console=self._output.console(error=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=self._total, done=0)
        return self

    def at(self, position: int, done: int) -> None:
        """Show that ``position`` of ``total`` is reached, and ``done`` units are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=position, done=done)
        elif not self._output.quiet and time.monotonic() - self._last >= EVERY:
            self._last = time.monotonic()
            line = {"progress": self._what, "position": position, "total": self._total, "done": done}
            sys.stderr.write(json.dumps(line) + "\n")

    def set_total(self, total: int | None) -> None:
        """Correct the total."""
        if total is not None and total != self._total:
            self._total = total
            if self._bar is not None:
                self._bar.update(self._task, total=total)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
