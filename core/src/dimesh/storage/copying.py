"""Consistent copies of SQLite files that other processes write meanwhile.

A :class:`Frozen` file is seen as it was at one moment, and is then copied page by page. The read transaction that holds the
moment is what makes that end: without it, SQLite restarts a copy at each commit of another process. The copy keeps the journal
mode of its source, which ``VACUUM INTO`` does not, and two files can be frozen at the same moment.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from dimesh.errors import StorageError
from dimesh.storage.checksums import CheckedConnection
from dimesh.storage.filelock import FileLock
from dimesh.storage.private import open_private, opener, sync_folder
from dimesh.storage.sqlitefile import Format, check_owner, connect, explain

_STEP: Final = 1 << 20
"""The number of bytes between two reports of progress."""
_FLUSH: Final = 8 << 20
"""The number of bytes between two flushes of a copy. One flush of all of it would hold up those of the writers."""

OnBytes = Callable[[int], object]
"""Called with the number of bytes that were copied since the last call."""


class Frozen:
    """A SQLite file of dimesh as it is at one moment, for reading.

    Args:
        path: the file; it is never changed, migrated or created.
        format: its format.
        lock: the lock of a file with a write-ahead log.
    """

    def __init__(self, path: Path, format: Format, lock: FileLock | None) -> None:
        self.path = path
        self.format = format
        self.version = 0
        self.size = 0
        self._lock = lock
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Connect, and check that the file is one of dimesh's that this version reads.

        Raises:
            StorageError: it is not, or it cannot be read.
        """
        with _explained(self.path), self._locked():
            self._connection = connect(self.path, factory=CheckedConnection)
            self._connection.execute("PRAGMA query_only=1")
            if self.format.wal:
                self._connection.execute("PRAGMA wal_autocheckpoint=0")
            self.version = check_owner(self._connection, self.path, self.format)[1]

    def freeze(self) -> None:
        """See the file as it is now from now on. Writers go on; what they write stays in the log until :meth:`close`."""
        with _explained(self.path):
            connection = self._opened()
            connection.execute("BEGIN")
            connection.execute(
                "SELECT count(*) FROM sqlite_master"
            ).fetchone()  # the transaction begins at the first read
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            self.size = pages * connection.execute("PRAGMA page_size").fetchone()[0]

    def copy(self, target: Path, on_bytes: OnBytes) -> dict[str, int]:
        """Copy the frozen file to a new one, verify the copy, flush it to the disk, and return its rows by table.

        Raises:
            StorageError: the disk is full, or a row of the file is damaged.
        """
        source = self._opened()
        with (
            open(open_private(target, os.O_RDWR | os.O_CREAT | os.O_EXCL), "rb") as flushed,
            contextlib.closing(connect(target)) as copy,
            _explained(target),
        ):
            copy.execute("PRAGMA synchronous=OFF")  # it is flushed here
            page = source.execute("PRAGMA page_size").fetchone()[0]
            done = 0

            def progress(status: int, remaining: int, total: int) -> None:
                nonlocal done
                now = (total - remaining) * page
                on_bytes(now - done)
                if now // _FLUSH > done // _FLUSH:
                    os.fsync(flushed.fileno())
                done = now

            source.backup(copy, pages=max(_STEP // page, 1), progress=progress)
        rows = verify(target, self.format, self.path)
        sync(target)
        return rows

    def close(self) -> None:
        """Let writers move their log into the file again; may be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # Under the lock: the last connection to close moves the log into the file.
            with self._locked():
                connection.close()
        if self._lock is not None:
            self._lock.release()

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StorageError(f"{self.path} is not open")
        return self._connection

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return self._lock if self._lock is not None else contextlib.nullcontext()


def verify(path: Path, format: Format, named: Path) -> dict[str, int]:
    """Check the pages of a file that nobody writes, and the checksums and totals of its rows; return the rows by table.

    Args:
        path: the file.
        format: its format.
        named: the file to name in errors: the one that ``path`` was copied from.

    Raises:
        StorageError: the file is damaged.
    """
    with _explained(named), contextlib.closing(connect(path, factory=CheckedConnection)) as connection:
        version = check_owner(connection, named, format)[1]
        found = [text for (text,) in connection.execute("PRAGMA quick_check(1)")]
        if found != ["ok"]:
            raise StorageError(
                f"{named} is damaged ({found[0]:.200}): restore it from a backup, or move it away"
            )
        if version == format.version:  # an older format has other tables, and is checked when it is migrated
            for check in format.checks:
                check(connection, named)
        names = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
        ).fetchall()
        count = "SELECT count(*) FROM {}"
        return {name: connection.execute(count.format(_quoted(name))).fetchone()[0] for (name,) in names}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def copy_bytes(source: Path, target: Path, on_bytes: OnBytes) -> str:
    """Copy a file that nobody writes to a new, private one, flush it, and return the SHA-256 of what was read.

    Raises:
        OSError: reading or writing failed.
    """
    digest = hashlib.sha256()
    with open(source, "rb") as read, open(target, "xb", opener=opener) as written:
        while piece := read.read(_STEP):
            digest.update(piece)
            written.write(piece)
            on_bytes(len(piece))
        written.flush()
        os.fsync(written.fileno())
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Flush a file and its entry in its folder to the disk."""
    fd = open_private(path, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_folder(path.parent)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise explain(error, path) from error
