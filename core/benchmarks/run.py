"""Run the benchmarks and write the results: a table to the terminal, JSON to ``bench-results/``.

Usage: ``python core/benchmarks/run.py [--short] [--write] [NAME …]``; ``--write`` puts the tables into
docs/performance.md. Every result is shown with its floor from the same run, if there is one. A missed target is shown
as missed and does not fail the run, since a busy machine misses targets too.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = ROOT / "bench-results"
PAGE = ROOT / "docs" / "performance.md"
MARKS = ("<!-- figures: written by nox -s bench -- --write -->", "<!-- end of figures -->")


def load(path: Path) -> Any:
    """Import a benchmark module by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="benchmarks to run, such as 'bus'; all by default")
    parser.add_argument(
        "--short", action="store_true", help="fewer rounds, to check that the benchmarks still run"
    )
    parser.add_argument("--write", action="store_true", help="write the results to docs/performance.md")
    arguments = parser.parse_args()
    if arguments.short:
        os.environ["MESH_BENCH_SHORT"] = "1"
    console = Console()
    figures: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    for path in [*sorted(HERE.glob("bench_*.py")), *sorted(ROOT.glob("plugins/*/benchmarks/bench_*.py"))]:
        name = path.stem.removeprefix("bench_")
        if arguments.names and name not in arguments.names:
            continue
        try:
            rows = load(path).run()
        except Exception as error:
            if type(error).__name__ != "ServerUnavailable" or os.environ.get("CI") == "true":
                raise
            console.print(f"[red]NOT MEASURED[/] {name}: {error}")
            continue
        figures[name] = rows
        table = Table("figure", "value", "floor", "ratio", "target", title=name)
        for row in rows:
            ok = row.get("ok")
            mark = "" if ok is None else ("  [green]reached[/]" if ok else "  [red]missed[/]")
            table.add_row(
                row["name"],
                f"{row['value']:,.3g} {row.get('unit', '')}",
                f"{row['floor']:,.3g}" if row.get("floor") is not None else "",
                f"{row['ratio']:.2f}" if row.get("ratio") is not None else "",
                f"{row.get('target', '')}{mark}",
            )
        console.print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "figures.json").write_text(json.dumps(figures, indent=2), "utf-8")
    console.print(f"written to {RESULTS.name}/figures.json")
    if arguments.write:
        before, _, rest = PAGE.read_text("utf-8").partition(MARKS[0])
        old, _, after = rest.partition(MARKS[1])
        PAGE.write_text(f"{before}{MARKS[0]}\n{tables(figures, old)}\n{MARKS[1]}{after}", "utf-8")
        console.print(f"written to {PAGE.relative_to(ROOT)}")


def tables(figures: dict[str, Any], old: str) -> str:
    """Return the results as Markdown, a section for each benchmark; benchmarks that did not run keep their ``old`` section."""
    sections = {
        part.partition("\n")[0]: f"### {part.strip()}" for part in f"\n{old.strip()}".split("\n### ")[1:]
    }
    for name, rows in figures.items():
        if isinstance(rows, list):
            sections[name] = f"### {name}\n\n{_machine(figures)}\n\n{_table(rows)}"
    return "\n" + "\n\n".join(sections[name] for name in sorted(sections)) + "\n"


def _machine(figures: dict[str, Any]) -> str:
    return f"Python {figures['python']}, {figures['machine']}, {figures['cpus']} processors; {figures['time'][:10]}."


def _table(rows: list[dict[str, Any]]) -> str:
    lines = ["| figure | value | floor | ratio | target | |", "|---|---|---|---|---|---|"]
    for row in rows:
        ok = row.get("ok")
        verdict = "" if ok is None else "reached" if ok else "**missed**"
        floor = f"{row['floor']:,.3g}" if row.get("floor") is not None else ""
        ratio = f"{row['ratio']:.2f}" if row.get("ratio") is not None else ""
        value = f"{row['value']:,.3g} {row.get('unit', '')}".strip()
        lines.append(f"| {row['name']} | {value} | {floor} | {ratio} | {row.get('target', '')} | {verdict} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
