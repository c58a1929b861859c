"""The built wheels install without the repository and work in a new environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.wheels

DIST = Path(os.environ.get("MESH_BUILT", "dist"))
BIN = "Scripts" if os.name == "nt" else "bin"


def wheels() -> dict[str, Path]:
    found = {path.name.split("-")[0]: path for path in DIST.glob("*.whl")}
    assert found, f"there are no wheels in {DIST}: run nox -s wheels"
    return found


def run(*command: object, cwd: Path, code: int = 0) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == code, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    uv = Path(sys.executable).with_name("uv")
    run(uv, "venv", "--quiet", "--python", sys.executable, "venv", cwd=folder)
    python = folder / "venv" / BIN / "python"
    run(uv, "pip", "install", "--quiet", "--python", python, *wheels().values(), cwd=folder)
    return folder


def test_the_contents_of_the_wheels() -> None:
    for name, path in wheels().items():
        files = zipfile.ZipFile(path).namelist()
        assert f"{name}/py.typed" in files
        assert any(file.endswith("licenses/LICENSE") for file in files), files[-5:]
        assert not [file for file in files if "test" in file.split("/")[0]]
    files = zipfile.ZipFile(wheels()["dimesh"]).namelist()
    assert "dimesh/cli/help.txt" in files
    assert "dimesh/sourcekit/sandbox/page.html" in files
    assert "dimesh/templates/hooks/src/PACKAGE/__init__.py.tmpl" in files
    sources = list(DIST.glob("*.tar.gz"))
    assert len(sources) == len(wheels())


def test_it_imports_and_is_not_the_checkout(environment: Path) -> None:
    python = environment / "venv" / BIN / "python"
    where = run(python, "-c", "import dimesh, dimesh_contracts; print(dimesh.__file__)", cwd=environment)
    assert "site-packages" in where


def test_the_demo_runs(environment: Path) -> None:
    dimesh = environment / "venv" / BIN / "dimesh"
    result = json.loads(run(dimesh, "--output", "json", "demo", cwd=environment))
    assert result["ok"]
    topics = json.loads(
        run(dimesh, "--output", "json", "--bus-path", "mesh-data/demo/mesh.db", "topics", cwd=environment)
    )
    assert {"orders", "pillar.growth"} <= {topic["topic"] for topic in topics}


@pytest.mark.parametrize("kind", ["bus", "registry", "cdc", "lineage", "hooks"])
def test_a_new_plugin_installs_beside_it_and_passes_its_tests(environment: Path, kind: str) -> None:
    python = environment / "venv" / BIN / "python"
    dimesh = environment / "venv" / BIN / "dimesh"
    uv = Path(sys.executable).with_name("uv")
    run(dimesh, "new", "plugin", "--kind", kind, f"my{kind}", cwd=environment)
    project = environment / f"acme-dimesh-my{kind}"
    run(uv, "build", "--quiet", "--wheel", "--out-dir", environment / "built", project, cwd=environment)
    run(
        uv,
        "pip",
        "install",
        "--quiet",
        "--python",
        python,
        next((environment / "built").glob(f"acme_dimesh_my{kind}-*.whl")),
        "pytest",
        "pytest-asyncio",
        cwd=environment,
    )
    listed = json.loads(run(dimesh, "--output", "json", "plugins", cwd=environment))
    assert [row["state"] for row in listed if row["name"] == f"my{kind}"] == ["available"]
    run(python, "-m", "pytest", "-q", cwd=project)
    here = Path(sys.executable).parent
    run(here / "ruff", "check", ".", cwd=project)
    run(here / "ruff", "format", "--check", ".", cwd=project)
    run(here / "mypy", "--python-executable", python, "src", cwd=project)
