"""Every example of the documentation, run unchanged.

``python`` blocks of one page share a namespace and may await at top level. ``console`` blocks are shell sessions: each
line that begins with ``$ dimesh`` or ``$ mv`` is run, and the lines below it, if there are any, must appear in its output in that
order (``...`` stands for anything). All examples of a page run in one empty directory.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<lang>\w+)(?P<info>[^\n]*)\n(?P<code>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL
)
README = DOCS.parent / "README.md"
PAGES = [*sorted(DOCS.rglob("*.md")), README]


def examples(page: Path) -> list[tuple[str, str, str]]:
    found = []
    for match in FENCE.finditer(page.read_text("utf-8")):
        indent = match["indent"]
        code = "\n".join(line.removeprefix(indent) for line in match["code"].split("\n"))
        found.append((match["lang"], match["info"].strip(), code))
    return found


def name_of(page: Path) -> str:
    return str(page.relative_to(DOCS.parent))


RUNNABLE = [page for page in PAGES if any(lang in ("python", "console") for lang, _, _ in examples(page))]


def has_many_commands(page: Path) -> bool:
    """Return whether a page starts more than a few processes."""
    return sum(code.count("$ dimesh") for lang, _, code in examples(page) if lang == "console") > 1


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if has_many_commands(page) else [], id=name_of(page))
        for page in RUNNABLE
    ],
)
async def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__example__"}
    for lang, info, code in examples(page):
        if "no-run" in info:
            continue
        title = re.search(r'title="([^"]+)"', info)
        if title is not None:  # a file of the example project
            target = tmp_path / title[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(code, "utf-8")
            continue
        if lang == "python":
            await run_python(code, page, namespace)
        elif lang == "console":
            run_console(code, tmp_path)


async def run_python(code: str, page: Path, namespace: dict[str, Any]) -> None:
    # Without the __future__ imports of this module, which a reader's file does not have.
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    compiled = compile(code, name_of(page), "exec", flags=flags, dont_inherit=True)
    result = eval(compiled, namespace)
    if inspect.iscoroutine(result):
        await result


def run_console(session: str, directory: Path) -> None:
    steps: list[tuple[str, list[str]]] = []
    for line in session.splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], []))
        elif steps and line.strip():
            steps[-1][1].append(line)
    for command, expected in steps:
        if not re.match(r"(mv |(\w+ .*\| *)?dimesh\b)", command):
            continue
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "NO_COLOR": "1",
                "COLUMNS": "110",
                "PYTHONPATH": str(directory),
            },
        )
        assert done.returncode == 0, f"{shlex.quote(command)}: {done.stdout}\n{done.stderr}"
        rest = done.stdout
        for line in expected:
            for part in filter(None, (p.strip() for p in line.split("..."))):
                assert part in rest, f"{command}: {part!r} not in (rest of) the output:\n{done.stdout}"
                rest = rest[rest.index(part) + len(part) :]
