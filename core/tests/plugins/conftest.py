"""Toy distributions: real wheels, installed by pip into a folder that a new interpreter has on its path."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

Install = Callable[..., None]
Run = Callable[..., Any]

PIP_OPTIONS = ["--quiet", "--no-index", "--no-deps", "--upgrade", "--disable-pip-version-check"]

# Leaves a file behind when it is imported.
MARK = """
import os, pathlib
pathlib.Path(os.environ["TOY_MARKS"], __name__).touch()
"""


def build_wheel(
    folder: Path,
    distribution: str,
    modules: Mapping[str, str],
    entry_points: Mapping[str, Mapping[str, str]],
    version: str = "1.0",
) -> Path:
    """A wheel of some modules (``name`` to source) and entry points (group to name to target)."""
    stem = f"{distribution.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    groups = "".join(
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
        for group, points in entry_points.items()
    )
    files = {f"{name}.py": MARK + source for name, source in modules.items()}
    files |= {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: toys\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": groups,
    }
    record = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},"
        f"{len(text.encode())}"
        for name, text in files.items()
    ]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    wheel = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return wheel


def pip() -> list[str]:
    """How to run pip: the environment's own, else the one that comes with Python."""
    if find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    import ensurepip

    bundled = next((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
    return [sys.executable, str(bundled / "pip")]


def install_wheels(site: Path, *wheels: Path) -> None:
    """Install wheels into a folder, replacing what is there. No network."""
    subprocess.run(
        [*pip(), "install", *PIP_OPTIONS, "--target", str(site), *map(str, wheels)],
        check=True,
        capture_output=True,
        timeout=100,
    )


def run_code(site: Path, work: Path, code: str, **more: str) -> Any:
    """Run code in a new interpreter that sees the folder; returns the JSON of its last line of output."""
    done = run_process(site, work, "-W", "error", "-c", code, **more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def run_process(site: Path, work: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a new interpreter that sees the folder, in ``work``."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment_of(site, work, **more),
        cwd=work,
        capture_output=True,
        text=True,
        timeout=60,
    )


def environment_of(site: Path, work: Path, **more: str) -> dict[str, str]:
    """Return the variables for a process that sees the folder."""
    (work / "marks").mkdir(exist_ok=True)
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("DIMESH_")},
        "PYTHONPATH": str(site),
        "TOY_MARKS": str(work / "marks"),
        "XDG_CACHE_HOME": str(work / "cache"),
        **more,
    }


class Tools:
    """The functions above, for tests that share one set of toys."""

    build_wheel = staticmethod(build_wheel)
    install_wheels = staticmethod(install_wheels)
    run_code = staticmethod(run_code)
    run_process = staticmethod(run_process)
    environment_of = staticmethod(environment_of)


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    return Tools


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    return folder


@pytest.fixture
def install(site: Path, tmp_path: Path) -> Install:
    """Build and install one toy: ``install(distribution, modules, entry_points, version)``."""

    def do(
        distribution: str,
        modules: Mapping[str, str],
        entry_points: Mapping[str, Mapping[str, str]],
        version: str = "1.0",
    ) -> None:
        install_wheels(site, build_wheel(tmp_path, distribution, modules, entry_points, version))

    return do


@pytest.fixture
def run(site: Path, tmp_path: Path) -> Run:
    return lambda code, **more: run_code(site, tmp_path, code, **more)
