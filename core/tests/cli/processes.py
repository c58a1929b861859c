"""Processes beside a test, and what they serve."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dimesh_contracts.waiting import patience

from .conftest import environment


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command beside the test, and interrupt it at the end. Its log is appended to the file ``log``."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dimesh", *arguments],
            cwd=folder,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def eventually(true: Callable[[], Any], times: float = 1.0) -> Any:
    until = time.monotonic() + patience(times)
    while not (found := true()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return found


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def control(port: int, command: str, method: str = "POST", **body: Any) -> Any:
    """Send a command to a sandbox, such as to switch faults, and return its answer."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/_sandbox/{command}",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.loads(response.read() or b"null")


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    """Return the status and the body of an HTTP response; status 0: nobody answers."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""
