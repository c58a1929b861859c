"""The nox session for third parties: each Python with each release; what is missing is an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nox")

pytestmark = pytest.mark.slow  # each test starts nox

NOXFILE = """
from dimesh_contracts.nox import plugin_tests

plugin_tests(pythons={pythons!r}, dimesh=["0.1.0", "latest"])
"""


def nox(folder: Path, *arguments: str, pythons: list[str]) -> subprocess.CompletedProcess[str]:
    (folder / "noxfile.py").write_text(NOXFILE.format(pythons=pythons))
    return subprocess.run(
        [sys.executable, "-m", "nox", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_each_python_meets_each_release(tmp_path: Path) -> None:
    done = nox(tmp_path, "-l", pythons=["3.11", "3.13"])
    listed = [line.split(" ->")[0].strip("* ") for line in done.stdout.splitlines() if "tests-" in line]
    assert listed == [
        "tests-3.11(dimesh='0.1.0')",
        "tests-3.11(dimesh='latest')",
        "tests-3.13(dimesh='0.1.0')",
        "tests-3.13(dimesh='latest')",
    ]


def test_a_python_that_is_missing_is_an_error(tmp_path: Path) -> None:
    done = nox(tmp_path, pythons=["3.99"])
    assert done.returncode != 0
    assert "3.99" in done.stdout + done.stderr


def test_a_release_is_pinned_for_both_distributions() -> None:
    from dimesh_contracts.nox import requirements

    assert requirements("a.whl", "latest", "test") == ["a.whl[test]"]
    assert requirements("a.whl", "0.1.0", "") == ["a.whl", "dimesh==0.1.0", "dimesh-contracts==0.1.0"]
