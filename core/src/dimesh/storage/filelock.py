"""A lock between the processes of one machine, on a file that stays.

The kernel frees the lock when its holder ends, however it ends.

One use of the lock is to keep SQLite databases whole: before version 3.51.3, SQLite can damage a database in WAL mode when
two connections write and checkpoint at the same moment (the WAL-reset race, https://sqlite.org/wal.html). Every write
transaction, checkpoint and close of a database in WAL mode therefore holds a lock.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType

from dimesh.errors import StorageError
from dimesh.storage.private import open_private

if sys.platform != "win32":
    import fcntl


class FileLock:
    """An exclusive lock, for one thread at a time.

    As a context manager it waits for the lock, and keeps the file open for the next time; :meth:`release` closes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def acquire(self) -> None:
        """Wait for the lock.

        Raises:
            StorageError: the file cannot be created, or the file system has no locks.
        """
        fd = self._open()
        try:
            if sys.platform != "win32":
                fcntl.flock(fd, fcntl.LOCK_EX)
            else:
                _lock_windows(fd)
        except OSError as error:
            raise StorageError(
                f"this file system cannot lock {self.path} ({error.strerror}): keep the data on a local disk"
            ) from error

    def try_acquire(self) -> bool:
        """Take the lock if it is free; return False if another holder has it, in this process or another.

        Raises:
            StorageError: as for :meth:`acquire`.
        """
        fd = self._open()
        try:
            if sys.platform != "win32":
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                _try_lock_windows(fd)
        except (BlockingIOError, PermissionError):
            self.release()
            return False
        except OSError as error:
            self.release()
            raise StorageError(
                f"this file system cannot lock {self.path} ({error.strerror}): keep the data on a local disk"
            ) from error
        return True

    def release(self) -> None:
        """Free the lock if it is held, and close the file; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        if self._fd < 0:
            try:
                self._fd = open_private(self.path, os.O_RDWR | os.O_CREAT)
            except OSError as error:
                raise StorageError(f"cannot open the lock file {self.path}: {error.strerror}") from error
        return self._fd

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if sys.platform != "win32":
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        else:
            _unlock_windows(self._fd)


def _lock_windows(fd: int) -> None:  # pragma: no cover - the tests run on another system
    import time

    while True:
        try:
            _try_lock_windows(fd)
        except OSError:
            time.sleep(0.001)
        else:
            return


def _try_lock_windows(fd: int) -> None:  # pragma: no cover
    import msvcrt

    os.lseek(fd, 0, os.SEEK_SET)
    msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]


def _unlock_windows(fd: int) -> None:  # pragma: no cover
    import msvcrt

    os.lseek(fd, 0, os.SEEK_SET)
    msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined]
