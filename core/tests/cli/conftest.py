from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
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
    """Return a function that runs the command in an empty folder."""

    def run(
        *arguments: str, code: int | None = 0, stdin: bytes | str = b"", folder: str = ".", **extra: str
    ) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "dimesh", *arguments],
            cwd=tmp_path / folder,
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


Terminal = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """Return a function that runs the command on a terminal of 80 columns, and returns its code and the lines that
    appear there."""

    def run(*arguments: str, typed: bytes = b"") -> tuple[int, list[str]]:
        mine, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        kept = {k: v for k, v in environment().items() if k != "COLUMNS"}
        process = subprocess.Popen(
            [sys.executable, "-m", "dimesh", *arguments],
            cwd=tmp_path,
            env={**kept, "TERM": "dumb"},
            stdin=its,
            stdout=its,
            stderr=its,
        )
        os.close(its)
        os.write(mine, typed)
        text = b""
        with contextlib.suppress(OSError):  # the other side is closed
            while piece := os.read(mine, 65_536):
                text += piece
        os.close(mine)
        return process.wait(30), text.decode().splitlines()

    return run
