"""The identity of a process among those that share a file, and whether such a process has ended.

Containers on one machine may share a file although they do not share their process ids: the same number means another process
in each namespace. An id therefore proves something only to a process of the same namespace
(https://man7.org/linux/man-pages/man7/pid_namespaces.7.html). Everywhere else a lease has to decide, by :func:`shared_time`.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

_PROC: Final = os.path.exists("/proc/self/stat")


class ProcessId(NamedTuple):
    """The identity of a process."""

    boot: str
    """The boot of the machine; empty if the system does not report it. Monotonic times of different boots cannot be compared."""
    namespace: str
    """The namespace of process ids; empty if the id proves nothing, even to a process with the same id here."""
    pid: int
    started: str
    """The start of the process, which distinguishes it from a later one with the same id; empty if it is unknown."""

    def has_ended(self) -> bool:
        """Return whether the process is known to have ended. False means that it runs, or that this process cannot know."""
        here = this_process()
        if self.boot != here.boot:
            return True
        if not self.namespace or self.namespace != here.namespace:
            return False
        started = _start_of(self.pid)
        return started is None or bool(started and self.started and started != self.started)


def this_process() -> ProcessId:
    """Return the identity of this process."""
    return _identity(os.getpid())  # a fork is another process


@cache
def _identity(pid: int) -> ProcessId:
    return ProcessId(_boot(), _namespace(pid), pid, _start_of(pid) or "")


def process_name() -> str:
    """Return the name of this process for operators: the machine, and the id of the process on it."""
    return f"{platform.node() or 'this machine'}, process {os.getpid()}"


def shared_time() -> float:
    """Return the seconds of a clock that all processes of one boot share and that nobody can set back.

    It is the monotonic clock without the offset of the time namespace
    (https://man7.org/linux/man-pages/man7/time_namespaces.7.html).
    """
    return time.monotonic() - _clock_offset()


@cache
def _clock_offset() -> float:
    try:
        lines = Path("/proc/self/timens_offsets").read_text("ascii").splitlines()
        offsets = {name: int(seconds) + int(nanos) / 1e9 for name, seconds, nanos in map(str.split, lines)}
        return offsets.get("monotonic", 0.0)
    except (OSError, ValueError):
        return 0.0


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def _namespace(pid: int) -> str:
    """Return the namespaces of process ids and of times, the latter because a start is a time."""
    if not _PROC:
        return sys.platform if os.name == "posix" else ""  # elsewhere, a signal would end the process
    try:
        if os.readlink("/proc/self") != str(pid):
            return ""  # /proc shows the processes of another namespace
        names = [os.readlink("/proc/self/ns/pid")]
    except OSError:
        return ""
    if os.path.exists("/proc/self/ns/time"):
        names.append(os.readlink("/proc/self/ns/time"))
    return " ".join(names)


def _start_of(pid: int) -> str | None:
    """Return the start of a process of this namespace: empty if it is unknown, None if the process is not running."""
    if _PROC:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            # A zombie has ended, although its parent has not collected it yet.
            return None if fields[0] in ("Z", "X") else fields[19]
        except (FileNotFoundError, ProcessLookupError):
            return None
        except (OSError, IndexError):
            return ""
    if os.name == "posix":
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except OSError:
            pass  # a process of another user
    return ""
