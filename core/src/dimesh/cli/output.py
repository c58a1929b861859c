"""What commands print: tables for people, JSON for programs. Never both."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


class Output:
    """Where a command's result goes.

    Args:
        as_json: one JSON document, or one object a line for streams.
        color: False: never.
        quiet: nothing but results and errors.
    """

    def __init__(self, as_json: bool = False, color: bool = True, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._color = color and "NO_COLOR" not in os.environ

    @property
    def interactive(self) -> bool:
        """Whether a person watches."""
        return sys.stderr.isatty() and not self.as_json and not self.quiet

    def console(self, error: bool = False) -> Console:
        """A rich console; without colour where none is wanted."""
        from rich.console import Console

        # A pipe or file has no width: nothing is cut or wrapped there.
        width = None if (sys.stderr if error else sys.stdout).isatty() else 10_000
        return Console(stderr=error, no_color=not self._color, highlight=False, width=width)

    def document(self, value: Any) -> None:
        """One JSON document."""
        sys.stdout.write(_as_json(value, 2) + "\n")

    def line(self, value: Mapping[str, Any]) -> None:
        """One JSON object on a line of its own, at once."""
        sys.stdout.write(_as_json(value) + "\n")
        sys.stdout.flush()

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str, title: str = ""
    ) -> None:
        """Rows, as a table or as a JSON list of objects (keys are the columns)."""
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
            # The first column is what other commands take: never cut.
            table.add_column(column, no_wrap=n == 0, overflow="fold")
        for row in listed:
            # As text: what comes from events must not be read as markup.
            table.add_row(*(Text("" if cell is None else _printable(str(cell))) for cell in row))
        self.console().print(table)

    def say(self, text: str) -> None:
        """A line for people, on standard output."""
        if not self.as_json:
            sys.stdout.write(_printable(text) + "\n")

    def note(self, text: str) -> None:
        """Something beside the result, on standard error."""
        if not self.quiet and not self.as_json:
            sys.stderr.write(_printable(text) + "\n")


def _as_json(value: Any, indent: int | None = None) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=str)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # an argument that is not UTF-8, such as a file's name
        text = json.dumps(value, indent=indent, default=str)
    return text


def _printable(text: str) -> str:
    """Control characters of foreign text would move the cursor; they are shown instead."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
