"""The tutorial's backend, assembled from its pieces, is small and passes the kit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .test_examples import DOCS, examples

PAGE = DOCS / "tutorial" / "first-backend.md"


@pytest.mark.slow
def test_the_tutorials_backend_passes_the_kit(tmp_path: Path) -> None:
    parts = {info.split('"')[1]: code for _, info, code in examples(PAGE) if "title=" in info}
    program = parts["files_bus.py"] + "\n\n" + parts["files_stream.py"]
    assert len([line for line in program.splitlines() if line.strip()]) < 150
    (tmp_path / "files_bus.py").write_text(program)
    (tmp_path / "test_files_bus.py").write_text(parts["test_files_bus.py"])
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\nasyncio_mode = "auto"\n')
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--timeout", "60"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6_000:]
    assert "multi-process            proved by 1" in done.stdout
