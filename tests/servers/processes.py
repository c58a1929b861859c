"""What every server needs: a cache for what is fetched, free ports, a process with a log, and waiting."""

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
    """The server cannot be had on this machine; the message says what is missing."""


def cache_folder(name: str) -> Path:
    """Where fetched and built things stay between runs. ``DIMESH_TEST_CACHE`` puts it elsewhere."""
    base = os.environ.get("DIMESH_TEST_CACHE") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "dimesh-tests"
    )
    return Path(base) / name


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """``folder``, filled by ``make`` if it is not there yet. Two processes may do it at once; one of them wins."""
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
    """The path of a program.

    Raises:
        ServerUnavailable: it is not installed.
    """
    found = shutil.which(tool)
    if found is None:
        raise ServerUnavailable(f"{tool} is not installed: {hint}")
    return found


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def run(command: Sequence[str], cwd: Path | None = None) -> str:
    """Output of a command that ends by itself.

    Raises:
        ServerUnavailable: it failed; the message has the end of what it said.
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
        """Whether it has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, ready: Callable[[], bool], seconds: float = 60.0) -> None:
        """Start it and wait for ``ready``.

        Raises:
            ServerUnavailable: it ended, or was not ready in time; the message has the end of its log.
        """
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, env=self._env, start_new_session=True
            )
        self.wait(ready, seconds)

    def wait(self, ready: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait until it is ready; see :meth:`start`."""
        end = time.monotonic() + seconds
        while not ready():
            if not self.running or time.monotonic() > end:
                self.kill()
                tail = self.log.read_text("utf-8", "replace")[-3_000:]
                raise ServerUnavailable(f"{self._command[0]} did not start:\n{tail}")
            time.sleep(0.05)

    def stop(self, seconds: float = 20.0) -> None:
        """End it as an administrator would; by force if it takes too long."""
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
        """End it at once (SIGKILL)."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """Let it hang (SIGSTOP)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def folder_kept_on_failure(name: str) -> Iterator[Path]:
    """A folder for data and logs; removed, unless the block fails."""
    folder = Path(tempfile.mkdtemp(prefix=f"dimesh-{name}-"))
    try:
        yield folder
    except BaseException:
        print(f"logs of {name} are kept in {folder}")
        raise
    shutil.rmtree(folder, ignore_errors=True)


def accepts(port: int) -> bool:
    """Whether something listens on a port of loopback."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
