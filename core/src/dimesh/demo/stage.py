"""The output of the demo: headings and tables on a terminal, plain lines elsewhere, one JSON document for programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console


class Output(Protocol):
    """The output that the demo prints to: that of the command line."""

    as_json: bool
    """Whether one JSON document is wanted instead of text."""

    def console(self) -> Console:
        """Return the console for text."""
        ...

    def document(self, value: Any) -> None:
        """Print a JSON document."""
        ...


class Stage:
    """Prints the parts of the demo. Each step is checked; a step that fails makes the demo fail."""

    def __init__(self, folder: Path, output: Output) -> None:
        self.folder = folder
        self.database = str(folder / "mesh.db")
        self.good = True
        self._output = output
        self._console = output.console()
        self._acts: dict[str, list[dict[str, Any]]] = {}
        self._steps: list[dict[str, Any]] = []
        self._next: list[tuple[str, str]] = []

    def title(self, folder: Path) -> None:
        """Print the first line."""
        if not self._output.as_json:
            self._console.print(f"[bold]dimesh demo[/]  a mesh in [cyan]{folder}[/]")

    def act(self, name: str, title: str) -> None:
        """Start a new part."""
        self._steps = self._acts.setdefault(name, [])
        if not self._output.as_json:
            self._console.print()
            self._heading(title)

    def _heading(self, title: str) -> None:
        width = min(self._console.width, 80)
        self._console.print(f"[bold]{title}[/] [dim]{'─' * (width - len(title) - 1)}[/]")

    def step(self, text: str, ok: bool, detail: str = "") -> None:
        """Report a step and whether it succeeded."""
        from rich.text import Text

        self.good = self.good and ok
        self._steps.append({"step": text, "ok": ok, "detail": detail})
        if not self._output.as_json:
            line = Text("  ")
            line.append("✓ " if ok else "✗ ", style="green" if ok else "bold red")
            line.append(text)
            if detail:
                line.append(f"  {detail}", style="dim")
            self._console.print(line)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print a table."""
        self._steps.append({"table": [dict(zip(columns, row, strict=True)) for row in rows]})
        if self._output.as_json:
            return
        from rich import box
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, box=box.SIMPLE_HEAD, header_style="dim")
        for row in rows:
            table.add_row(*(Text(str(cell)) for cell in row))
        self._console.print(Padding(table, (0, 0, 0, 3), expand=False))

    def block(self, text: str) -> None:
        """Print text without changes, such as a Mermaid diagram."""
        from rich.padding import Padding
        from rich.text import Text

        self._steps.append({"text": text})
        if not self._output.as_json:
            self._console.print(Padding(Text(text, style="cyan"), (0, 0, 0, 4), expand=False))

    def try_next(self, command: str, why: str) -> None:
        """Add a command to the suggestions at the end of the demo."""
        self._next.append((command, why))

    def end(self) -> None:
        """Print the suggestions, or that a step failed."""
        if self._output.as_json:
            self._output.document(
                {
                    "ok": self.good,
                    "folder": str(self.folder),
                    "parts": self._acts,
                    "next": [command for command, _ in self._next],
                }
            )
            return
        console = self._console
        console.print()
        if not self.good:
            console.print("[bold red]A step failed: see the lines marked ✗.[/]")
            return
        self._heading("Try next")
        width = max((len(command) for command, _ in self._next), default=0)
        for command, why in self._next:
            console.print(f"  [cyan]{command.ljust(width)}[/]  [dim]{why}[/]")
