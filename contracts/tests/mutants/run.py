"""Runs each kit against each of its mutants: a mutant that survives fails the run.

``python contracts/tests/mutants/run.py [NAME …] [--write]``; ``--write`` makes docs/reference/mutants.md of the run.
A mutant is found when a test that proves the guarantee it breaks fails. The tests of other guarantees, which may fail as
well, are not run: that would take ten times as long and show nothing more.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from catalogue import Mutant, catalogue
from rich.console import Console
from rich.progress import Progress

from dimesh_contracts.bus import BusBackendContract
from dimesh_contracts.cdc import CDCSourceContract
from dimesh_contracts.contract import Contract
from dimesh_contracts.lineage import LineageSinkContract
from dimesh_contracts.registry import RegistryStoreContract

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PAGE = ROOT / "docs" / "reference" / "mutants.md"
TIMEOUT = 240
TEST_TIMEOUT = 20


KITS: dict[str, type[Contract]] = {
    "bus": BusBackendContract,
    "queues": BusBackendContract,
    "registry": RegistryStoreContract,
    "cdc": CDCSourceContract,
    "lineage": LineageSinkContract,
}


class Verdict(NamedTuple):
    """What became of a mutant."""

    found_by: list[str]
    """Failed tests; all of them prove the guarantee it breaks."""
    tests: int
    output: str


def challenge(name: str, mutant: Mutant) -> Verdict:
    """Run the kit against one mutant, in a process of its own."""
    kit = KITS[name.split(".")[0]]
    tests = [test for test in kit.names() if inspect.getattr_static(kit, test).guarantee is mutant.breaks]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib",
            "-o", "python_files=suite.py", "-o", "addopts=", "-o", "log_level=CRITICAL", "--tb=line",
            "--timeout", str(TEST_TIMEOUT), "--contract-report", str(report), "-W", "ignore", "-k", " or ".join(tests), str(HERE / "suite.py"),
        ]  # fmt: skip
        environment = {**os.environ, "MUTANT": name, "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
            output = done.stdout + done.stderr
        except subprocess.TimeoutExpired as error:
            output = f"it hung: {error}"
        if not report.exists():
            return Verdict([], 0, output)
        found = [
            test for outcomes in json.loads(report.read_text("utf-8")).values() for test in outcomes.values()
        ]
    wrong = [
        test for test in found if test["outcome"] == "failed" and test["guarantee"] == mutant.breaks.name
    ]
    return Verdict(sorted(test["test"] for test in wrong), len(found), output)


def page(verdicts: dict[str, Verdict], mutants: dict[str, Mutant]) -> str:
    """The table of the documentation."""
    lines = [
        "# Mutants",
        "",
        "Each is a plugin with one fault; the kit has to fail it, and to name the guarantee that it breaks. Written by",
        "`nox -s mutants -- --write`; `nox -s mutants` runs them all, and a mutant that survives fails it.",
    ]
    for kind in KITS:
        lines += [
            "",
            f"## {kind}",
            "",
            "| mutant | what it does wrong | the guarantee named | found by |",
            "|---|---|---|---|",
        ]
        for name, mutant in mutants.items():
            if name.split(".")[0] == kind:
                first = verdicts[name].found_by[0] if verdicts[name].found_by else "**survived**"
                more = len(verdicts[name].found_by) - 1
                found = f"`{first}`" + (f" and {more} more" if more > 0 else "")
                lines.append(f"| {name.split('.')[1]} | {mutant.fault} | {mutant.breaks.name} | {found} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="mutants, such as bus.reorders; all by default")
    parser.add_argument("--write", action="store_true", help="write the documentation's table")
    parser.add_argument(
        "--verbose", action="store_true", help="show what the kit printed about those that survive"
    )
    arguments = parser.parse_args()
    mutants = {n: m for n, m in catalogue().items() if not arguments.names or n in arguments.names}
    console = Console()
    began = time.monotonic()
    verdicts: dict[str, Verdict] = {}
    with ThreadPoolExecutor(os.cpu_count() or 2) as pool, Progress(console=console) as progress:
        bar = progress.add_task("mutants", total=len(mutants))
        running = {name: pool.submit(challenge, name, mutant) for name, mutant in mutants.items()}
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
    if arguments.write and not arguments.names and not survivors:
        PAGE.write_text(page(verdicts, mutants), "utf-8")
        console.print(f"written: {PAGE.relative_to(ROOT)}")
    elif not arguments.names and not survivors:
        listed = PAGE.read_text("utf-8") if PAGE.exists() else ""
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
