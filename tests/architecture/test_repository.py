"""Rules of this repository that a tool can check."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
from pathlib import Path

import pytest

from dimesh.plugins import hookspecs

ROOT = Path(__file__).resolve().parents[2]


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def sources() -> list[Path]:
    return [path for folder in ("core/src", "contracts/src") for path in (ROOT / folder).rglob("*.py")]


def test_no_file_names_a_machine_or_an_index() -> None:
    # The names are split, so that this file does not contain them.
    words = [
        r"/" + r"root/",
        r"/home/" + r"[a-z]+/",
        r"/work/" + r"(main|shared)",
        r"py" + r"pi\.org",
        r"registry\." + r"npmjs",
    ]
    pattern = re.compile("|".join(words))
    found = []
    for path in tracked():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(text)]
    assert not found


def test_every_module_has_a_docstring() -> None:
    for path in sources():
        tree = ast.parse(path.read_text("utf-8"))
        assert ast.get_docstring(tree), f"{path} has no docstring"


def test_modules_have_one_subject() -> None:
    # The length is only an indicator: a longer module usually has two subjects.
    long = {
        str(p.relative_to(ROOT)): n for p in sources() if (n := len(p.read_text("utf-8").splitlines())) > 640
    }
    assert not long


def test_every_distribution_is_typed() -> None:
    for package in [*ROOT.glob("core/src/*"), *ROOT.glob("contracts/src/*"), *ROOT.glob("plugins/*/src/*")]:
        assert (package / "py.typed").exists(), package


def test_every_hook_has_a_test_and_is_documented() -> None:
    hooks = [name for name in vars(hookspecs) if name.startswith("dimesh_")]
    tests = "\n".join(p.read_text("utf-8") for p in (ROOT / "core/tests").rglob("test_*.py"))
    page = (ROOT / "docs/reference/hooks.md").read_text("utf-8")
    for name in hooks:
        assert inspect.getdoc(getattr(hookspecs, name)), name
        assert f"`{name}`" in page, f"{name} is not in docs/reference/hooks.md"
        assert name in tests, f"no test names {name}"
