"""``dimesh init``: a project that runs at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dimesh.cli.exit_codes import ExitCode

from .conftest import Run, environment


def test_the_project_runs_at_once(dimesh: Run, tmp_path: Path) -> None:
    created = dimesh("init", "shop")
    assert created.out.splitlines() == ["shop/README.md", "shop/dimesh.toml", "shop/handlers.py"]
    assert "cd shop" in created.err
    process = subprocess.Popen(
        [sys.executable, "-m", "dimesh", "run"],
        cwd=tmp_path / "shop",
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    assert process.stdout is not None
    published = dimesh("--config", "dimesh.toml", "publish", "orders", "-p", '{"order": 7}', folder="shop")
    assert "published 1 events" in published.out
    assert process.stdout.readline() == b"shipping order 7\n"
    process.terminate()
    assert process.wait(20) == 0
    process.stdout.close()


@pytest.mark.slow
def test_no_file_is_replaced(dimesh: Run, tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text("precious")
    assert "handlers.py already exists" in dimesh("init", code=ExitCode.CONFIGURATION).err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["handlers.py"]
    assert (tmp_path / "handlers.py").read_text() == "precious"
    result = dimesh("--output", "json", "init", 'a "strange" folder').json
    assert len(result["files"]) == 3
    assert "a-strange-folder" in dimesh("config", "show", folder='a "strange" folder').out
