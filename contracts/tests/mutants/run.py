"""Run each kit against each of its mutants: a mutant that survives fails the run.

``python contracts/tests/mutants/run.py [NAME …] [--write]``; ``--write`` writes what was run into
docs/reference/mutants.md.
A mutant is found when a test that proves the broken guarantee fails. Tests of other guarantees, which may fail as well,
are not run: that would take ten times as long without further evidence.
"""

from __future__ import annotations

import argparse
import inspect
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from catalogue import Mutant, catalogue
from rich.console import Console
from rich.progress import Progress

from dimesh_contracts.bus import BusBackendContract
from dimesh_contracts.cdc import CDCSourceContract
from dimesh_contracts.contract import Contract
from dimesh_contracts.effort import FIXED_SEED
from dimesh_contracts.lineage import LineageSinkContract
from dimesh_contracts.registry import RegistryStoreContract
from dimesh_contracts.schema import SchemaLanguageContract

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PAGE = ROOT / "docs" / "reference" / "mutants.md"
TIMEOUT = 240
TEST_TIMEOUT = 20


OWN_ERROR = re.compile(r"mutants/\w+\.py:\d+: (AttributeError|ImportError|NameError|TypeError)\b.*")
"""An error in the code of a mutant, which fails tests for another reason than the mutant's fault."""

KITS: dict[str, type[Contract]] = {
    "bus": BusBackendContract,
    "queues": BusBackendContract,
    "registry": RegistryStoreContract,
    "schema": SchemaLanguageContract,
    "cdc": CDCSourceContract,
    "lineage": LineageSinkContract,
}


class Verdict(NamedTuple):
    """The result of a mutant."""

    found_by: list[str]
    """The failed tests, all of which prove the broken guarantee."""
    tests: int
    output: str


def start_of_processes() -> Any:
    """Return the context that makes processes: copies of one that has imported everything, which takes longer than most suites."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["dimesh_contracts.pytest_plugin", "_hypothesis_pytestplugin", "preloaded"]
    )
    return context


def run_suite(name: str, arguments: list[str], output: Path) -> None:
    """Run the suite of one mutant in this process, which writes what it prints to ``output``."""
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    os.environ["MUTANT"] = name
    code = pytest.main(arguments)
    sys.stdout.flush()
    os._exit(code)  # threads that a mutant left behind do not keep the process


def challenge(name: str, mutant: Mutant, context: Any) -> Verdict:
    """Run the kit against one mutant, in a separate process."""
    kit = KITS[name.split(".")[0]]
    tests = [test for test in kit.names() if inspect.getattr_static(kit, test).guarantee is mutant.breaks]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        printed = Path(folder) / "output"
        arguments = [
            "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--assert=plain",
            "-o", "python_files=suite.py", "-o", "addopts=", "-o", "log_level=CRITICAL", "--tb=line",
            "--timeout", str(TEST_TIMEOUT), "--contract-report", str(report), "--contract-seed", str(FIXED_SEED),
            "-W", "ignore", "-k", " or ".join(tests), str(HERE / "suite.py"),
        ]  # fmt: skip  # in CI the seed is a random one, and a few examples do not find every mutant with any seed
        process = context.Process(target=run_suite, args=(name, arguments, printed))
        process.start()
        process.join(TIMEOUT)
        hung = process.is_alive()
        if hung:
            process.kill()
            process.join()
        output = printed.read_text("utf-8", "replace") if printed.exists() else ""
        if hung:
            output += f"\nit hung for {TIMEOUT} s"
        if not report.exists():
            return Verdict([], 0, output)
        found = [
            test for outcomes in json.loads(report.read_text("utf-8")).values() for test in outcomes.values()
        ]
    broken = OWN_ERROR.search(output)
    if broken:
        return Verdict([], len(found), f"the mutant itself is broken: {broken[0]}\n{output}")
    wrong = [
        test for test in found if test["outcome"] == "failed" and test["guarantee"] == mutant.breaks.name
    ]
    return Verdict(sorted(test["test"] for test in wrong), len(found), output)


def page(verdicts: dict[str, Verdict], mutants: dict[str, Mutant], before: str) -> str:
    """Return the page of the documentation; what was not run now keeps the row that it had before."""
    rows = {row.split("|")[1].strip(): row for row in before.splitlines() if row.startswith("| ")}
    lines = [
        "# Mutants",
        "",
        "Each is a plugin with one fault; the kit must fail it and name the broken guarantee. Written by",
        "`nox -s mutants -- --write`; `nox -s mutants` runs them all, and a mutant that survives fails it.",
    ]
    for kind in KITS:
        lines += [
            "",
            f"## {kind}",
            "",
            "| mutant | its fault | guarantee named | found by |",
            "|---|---|---|---|",
        ]
        for name, mutant in mutants.items():
            if name.split(".")[0] != kind:
                continue
            short = name.split(".")[1]
            if name in verdicts:
                first, *more = verdicts[name].found_by
                found = f"`{first}`" + (f" and {len(more)} more" if more else "")
                lines.append(f"| {short} | {mutant.fault} | {mutant.breaks.name} | {found} |")
            elif short in rows:
                lines.append(rows[short])
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="mutants, such as bus.reorders; all by default")
    parser.add_argument(
        "--write", action="store_true", help="write the rows of what was run into the documentation's table"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="show what the kit printed about those that survive"
    )
    arguments = parser.parse_args()
    mutants = {n: m for n, m in catalogue().items() if not arguments.names or n in arguments.names}
    console = Console()
    began = time.monotonic()
    verdicts: dict[str, Verdict] = {}
    context = start_of_processes()
    with ThreadPoolExecutor(os.cpu_count() or 2) as pool, Progress(console=console) as progress:
        bar = progress.add_task("mutants", total=len(mutants))
        running = {name: pool.submit(challenge, name, mutant, context) for name, mutant in mutants.items()}
        for name, future in running.items():
            verdict = verdicts[name] = future.result()
            progress.advance(bar)
            said = (
                f"{mutants[name].breaks.name}: {', '.join(verdict.found_by)}"
                if verdict.found_by
                else "SURVIVED"
            )
            progress.print(
                f"{name:28} {len(verdict.found_by)} of {verdict.tests} failed  {said}", soft_wrap=True
            )
            if arguments.verbose and not verdict.found_by:
                progress.print(verdict.output)
    survivors = [name for name, verdict in verdicts.items() if not verdict.found_by]
    console.print(
        f"{len(verdicts) - len(survivors)} of {len(verdicts)} found in {time.monotonic() - began:.0f} s"
    )
    if arguments.write and not survivors:
        PAGE.write_text(page(verdicts, catalogue(), PAGE.read_text("utf-8")), "utf-8")
        console.print(f"written: {PAGE.relative_to(ROOT)}")
    elif not arguments.names and not survivors:
        listed = PAGE.read_text("utf-8")
        missing = [
            n
            for n, m in mutants.items()
            if f"| {n.split('.')[1]} | {m.fault} | {m.breaks.name} |" not in listed
        ]
        if missing:
            sys.exit(f"docs/reference/mutants.md lacks {', '.join(missing)}: run 'nox -s mutants -- --write'")
    if survivors:
        sys.exit(f"survived: {', '.join(survivors)}")


if __name__ == "__main__":
    main()
