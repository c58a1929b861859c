"""Shared parts of the servers: a cache for downloads, free ports, a process with a log, and waiting."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path


class ServerUnavailable(Exception):
    """The server is not available on this machine; the message names what is missing."""


def cache_folder(name: str) -> Path:
    """Return a folder for downloads and builds that are kept between runs; ``DIMESH_TEST_CACHE`` moves it."""
    base = os.environ.get("DIMESH_TEST_CACHE") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "dimesh-tests"
    )
    return Path(base) / name


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return ``folder``, filled by ``make`` if it does not exist. If two processes fill it at once, one result is kept."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}-"))
    try:
        make(fresh)
        with contextlib.suppress(OSError):  # the other process was first
            fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def needs(tool: str, hint: str) -> str:
    """Return the path of a program.

    Raises:
        ServerUnavailable: If the program is not installed.
    """
    found = shutil.which(tool)
    if found is None:
        raise ServerUnavailable(f"{tool} is not installed: {hint}")
    return found


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that are not in use now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def run(command: Sequence[str], cwd: Path | None = None) -> str:
    """Run a command to its end and return its output.

    Raises:
        ServerUnavailable: If the command fails; the message has the end of its output.
    """
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise ServerUnavailable(f"{command[0]} failed: {(done.stdout + done.stderr)[-2_000:]}")
    return done.stdout


class ServerProcess:
    """A server that runs until it is stopped, with its output in a file."""

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self._command = list(command)
        self._env = {**os.environ, **(env or {})}
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, ready: Callable[[], bool], seconds: float = 60.0) -> None:
        """Start the process and wait for ``ready``.

        Raises:
            ServerUnavailable: If the process ends or is not ready in time; the message has the end of its log.
        """
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, env=self._env, start_new_session=True
            )
        self.wait(ready, seconds)

    def wait(self, ready: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait until the server is ready; see :meth:`start`."""
        end = time.monotonic() + seconds
        while not ready():
            if not self.running or time.monotonic() > end:
                self.kill()
                tail = self.log.read_text("utf-8", "replace")[-3_000:]
                raise ServerUnavailable(f"{self._command[0]} did not start:\n{tail}")
            time.sleep(0.05)

    def stop(self, seconds: float = 20.0) -> None:
        """Stop the process by SIGTERM, or by SIGKILL if it takes too long."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill the process (SIGKILL)."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """Suspend the process (SIGSTOP)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the process (SIGCONT)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def folder_kept_on_failure(name: str) -> Iterator[Path]:
    """Yield a folder for data and logs, which is removed unless the block fails."""
    folder = Path(tempfile.mkdtemp(prefix=f"dimesh-{name}-"))
    try:
        yield folder
    except BaseException:
        print(f"logs of {name} are kept in {folder}")
        raise
    shutil.rmtree(folder, ignore_errors=True)


def accepts(port: int) -> bool:
    """Return whether a server listens on a port of loopback."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
