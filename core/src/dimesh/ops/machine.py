"""What the machine gives to the files of a mesh: space, flushes, modes, a clock. Every check uses what it checks.

The functions block; a check of a disk that hangs is abandoned by its caller.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dimesh.ops.results import CheckResult, Outcome, warn_if

LITTLE_SPACE: Final = 1 << 30
"""Free bytes of a disk below which there is a warning."""
OLDEST_SQLITE: Final = (3, 35, 0)
"""The oldest SQLite that dimesh is tested with."""
_FLUSHES: Final = 10
_SLOW: Final = 0.1
"""Seconds of a flush from which there is a warning: each one is a wait of all who publish."""
_SKEW: Final = 1.0
"""Seconds between our clock and another one from which times are misleading."""
_VOLATILE: Final = ("tmpfs", "ramfs")
_REMOTE: Final = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs", "lustre")
_OTHERS: Final = 0o077


def check_sqlite() -> CheckResult:
    """Report the version of SQLite."""
    version = sqlite3.sqlite_version
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        return CheckResult(
            "sqlite",
            Outcome.FAILED,
            f"SQLite {version} is too old",
            f"use a Python with SQLite {oldest} or newer",
        )
    return CheckResult("sqlite", Outcome.OK, f"SQLite {version}")


def check_space(folder: Path) -> CheckResult:
    """Report the free space of a disk."""
    free = shutil.disk_usage(folder).free
    little = free <= LITTLE_SPACE
    detail = f"{free / (1 << 30):.1f} GiB free in {folder}"
    return CheckResult(
        "disk", warn_if(little), detail, "free space, or set a retention for the topics" if little else ""
    )


def check_flush(folder: Path) -> CheckResult:
    """Write and flush a file a few times, as every publish does, and report the time that it took."""
    took: list[float] = []
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            for _ in range(_FLUSHES):
                began = time.perf_counter()
                file.write(b"\0" * 4096)
                file.flush()
                os.fsync(file.fileno())
                took.append(time.perf_counter() - began)
    except OSError as error:
        return CheckResult(
            "flush",
            Outcome.FAILED,
            f"{folder} cannot be written and flushed: {error.strerror}",
            "check the owner and mode of the folder, the disk, and whether it is mounted read-only",
        )
    kind = file_system(folder)
    detail = (
        f"{statistics.median(took) * 1000:.1f} ms, the slowest of {_FLUSHES} {max(took) * 1000:.1f} ms, in {folder}"
        + (f" ({kind})" if kind else "")
    )
    if kind in _VOLATILE:
        return CheckResult(
            "flush",
            Outcome.WARNING,
            f"{detail}, which is memory",
            "keep the files on a disk: these are lost when the machine restarts",
        )
    if kind in _REMOTE:
        return CheckResult(
            "flush",
            Outcome.WARNING,
            f"{detail}, which is a network file system",
            "keep the files on a local disk: locks and write-ahead logs are not reliable there",
        )
    slow = statistics.median(took) > _SLOW
    return CheckResult(
        "flush",
        warn_if(slow),
        detail,
        "use a faster disk, or publish in batches: each flush is a wait of all who publish" if slow else "",
    )


def check_modes(paths: Sequence[Path]) -> CheckResult:
    """Report files of the mesh that others than their owner can use, or that belong to another user."""
    open_to_others: list[Path] = []
    foreign: list[Path] = []
    count = 0
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            continue
        count += 1
        if os.name != "posix":
            continue
        if status.st_uid != os.geteuid():
            foreign.append(path)
        elif stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) & _OTHERS:
            open_to_others.append(path)
    if foreign:
        return CheckResult(
            "file modes",
            Outcome.WARNING,
            f"{_some(foreign)}: the owner is another user",
            "run all processes of the mesh as one user, and give it the files with chown",
        )
    if open_to_others:
        return CheckResult(
            "file modes",
            Outcome.WARNING,
            f"{_some(open_to_others)}: others can read events",
            f"chmod 600 {' '.join(str(path) for path in open_to_others[:3])}",
        )
    return CheckResult("file modes", Outcome.OK, f"{count} files, for their owner only")


def check_clock(folders: Sequence[Path], paths: Sequence[Path]) -> CheckResult:
    """Compare the clock with that of the file system, and with the times of files that were written before."""
    now = time.time()
    shown = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    advice = "set the clock, and keep it in step with NTP: delays, retention and starts by time follow it"
    if not 2024 <= time.gmtime(now).tm_year < 2100:
        return CheckResult("clock", Outcome.FAILED, shown, advice)
    for path in paths:
        try:
            ahead = path.stat().st_mtime - now
        except OSError:
            continue
        if ahead > _SKEW:
            detail = f"{shown}; {path} was written {ahead:,.0f} s later than that: the clock went back"
            return CheckResult("clock", Outcome.WARNING, detail, advice)
    skew = max((_skew(folder) for folder in folders), default=None)
    if skew is None:
        return CheckResult("clock", Outcome.OK, shown)
    return CheckResult(
        "clock",
        warn_if(skew > _SKEW),
        f"{shown}; the file system's is {skew * 1000:.0f} ms apart",
        advice if skew > _SKEW else "",
    )


def _skew(folder: Path) -> float:
    """Return the seconds between our clock and that of a file system."""
    before = time.time()
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        stamp = os.fstat(file.fileno()).st_mtime
        return max(before - stamp, stamp - time.time(), 0.0)


def file_system(folder: Path) -> str:
    """Return the type of the file system of a folder, such as ``ext4``; empty where the system does not say."""
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
        real = os.path.realpath(folder)
    except OSError:
        return ""
    best, kind = "", ""
    for line in lines:  # id, parent, device, root, mount point, options, … "-", type, …
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4].replace("\\040", " ")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, after.split(" ")[0]
    return kind


def _some(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(str(path) for path in paths[:3]) + more
