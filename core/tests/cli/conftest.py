from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class Result:
    def __init__(self, done: subprocess.CompletedProcess[bytes]) -> None:
        self.code = done.returncode
        self.out = done.stdout.decode("utf-8", "replace")
        self.err = done.stderr.decode("utf-8", "replace")

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Result]


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DIMESH_")}
    return {**kept, "COLUMNS": "200", "PYTHONPATH": ""}


@pytest.fixture
def dimesh(tmp_path: Path) -> Run:
    """Runs the command in an empty folder."""

    def run(*arguments: str, code: int | None = 0, stdin: bytes | str = b"", **extra: str) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "dimesh", *arguments],
            cwd=tmp_path,
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            check=False,
            timeout=60,
            env={**environment(), **extra},
        )
        result = Result(done)
        assert "Traceback" not in result.err, result.err
        if code is not None:
            assert result.code == code, f"{arguments}: {result.code}\n{result.out}\n{result.err}"
        return result

    return run
