"""The output of commands: tables for people or JSON for programs, never both."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from dimesh.printable import printable, printable_json

if TYPE_CHECKING:
    from rich.console import Console

NOTES: Final = "dimesh.cli"
"""The logger of the remarks of commands, where the log is JSON."""


class Output:
    """Prints the results of a command.

    Args:
        as_json: print one JSON document, or one object per line for streams.
        color: whether colour may be used.
        quiet: print results and errors only.
    """

    def __init__(self, as_json: bool = False, color: bool = True, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.notes_as_records = False
        """Whether remarks are records of the log: standard error then has JSON lines only."""
        self._color = color and "NO_COLOR" not in os.environ

    @property
    def interactive(self) -> bool:
        """Whether a person watches the output on a terminal."""
        return sys.stderr.isatty() and not self.as_json and not self.quiet

    def console(self, error: bool = False) -> Console:
        """Return a rich console, without colour if colour is off."""
        from rich.console import Console

        # A pipe or file has no width, so nothing is cut or wrapped there.
        width = None if (sys.stderr if error else sys.stdout).isatty() else 10_000
        return Console(stderr=error, no_color=not self._color, highlight=False, width=width)

    def document(self, value: Any) -> None:
        """Print one JSON document."""
        sys.stdout.write(_as_json(value, 2) + "\n")

    def line(self, value: Mapping[str, Any]) -> None:
        """Print one JSON object on a line of its own, and flush it."""
        sys.stdout.write(_as_json(value) + "\n")
        sys.stdout.flush()

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str, title: str = ""
    ) -> None:
        """Print rows as a table, or as a JSON list of objects whose keys are the columns.

        Args:
            columns: the names of the columns.
            rows: one value per column.
            empty: the note to print instead of an empty table.
            title: the title above the table.
        """
        listed = [list(row) for row in rows]
        if self.as_json:
            self.document([dict(zip(columns, row, strict=True)) for row in listed])
            return
        if not listed:
            self.note(empty)
            return
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left")
        for n, column in enumerate(columns):
            # The first column is an argument of other commands, so it is never cut.
            table.add_column(column, no_wrap=n == 0, overflow="fold")
        for row in listed:
            # As text: the contents of events must not be interpreted as markup.
            table.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in row))
        self.console().print(table)

    def say(self, *lines: str) -> None:
        """Print lines for people on standard output. A line break inside one of them is escaped."""
        if not self.as_json:
            sys.stdout.write("".join(printable(line) + "\n" for line in lines))

    def note(self, *lines: str) -> None:
        """Print remarks on standard error, one in a line."""
        if self.quiet:
            return
        if self.notes_as_records:
            import logging

            for line in lines:
                logging.getLogger(NOTES).info("%s", line)
        elif not self.as_json:
            sys.stderr.write("".join(printable(line) + "\n" for line in lines))

    def warn(self, text: str) -> None:
        """Print a warning on standard error: something works as configured, but hardly as intended."""
        if self.quiet:
            return
        if self.as_json:
            sys.stderr.write(_as_json({"warning": text}) + "\n")
        else:
            self.note(f"warning: {text}")


def fit(text: str, used: int) -> str:
    """Cut a text to the rest of a line of which ``used`` characters are taken, on a terminal."""
    import shutil

    if not sys.stdout.isatty():
        return text
    text = printable(text)
    room = max(shutil.get_terminal_size().columns - used, 20)
    return text if len(text) <= room else text[: room - 1] + "…"


def _as_json(value: Any, indent: int | None = None) -> str:
    return printable_json(json.dumps(value, ensure_ascii=False, indent=indent, default=str))
