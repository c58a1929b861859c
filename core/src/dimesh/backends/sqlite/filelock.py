"""A lock between the processes of one machine.

SQLite before 3.51.3 can damage a database when two connections write and checkpoint at the same moment (the WAL-reset
race, https://sqlite.org/wal.html). Every write transaction, checkpoint and close of this backend therefore holds this
lock. The kernel frees it when its process ends, however that ends.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType

from dimesh.errors import StorageError

if sys.platform != "win32":
    import fcntl


class FileLock:
    """Exclusive; to be used as a context manager, by one thread at a time."""

    def __init__(self, path: Path) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            raise StorageError(f"cannot open the lock file {path}: {error.strerror}") from error

    def __enter__(self) -> None:
        try:
            if sys.platform != "win32":
                fcntl.flock(self._fd, fcntl.LOCK_EX)
            else:
                _lock_windows(self._fd)
        except OSError as error:
            raise StorageError(
                f"this file system cannot lock files ({error.strerror}): keep the database on a local disk"
            ) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if sys.platform != "win32":
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        else:
            _unlock_windows(self._fd)

    def close(self) -> None:
        """Free the file; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _lock_windows(fd: int) -> None:  # pragma: no cover - not the machine of the tests
    import msvcrt
    import time

    os.lseek(fd, 0, os.SEEK_SET)
    while True:
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            time.sleep(0.001)
        else:
            return


def _unlock_windows(fd: int) -> None:  # pragma: no cover
    import msvcrt

    os.lseek(fd, 0, os.SEEK_SET)
    msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined]
