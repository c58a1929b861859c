"""A SQLite file of dimesh: one application id, a numbered format with migrations, private to its owner.

:func:`open_file` opens or creates such a file, :func:`explain` turns an error of SQLite into a message for the user, and
:class:`SharedConnection` lets coroutines use a connection in threads, one call at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from dimesh.errors import StorageError, UnstorableError
from dimesh.storage.checksums import CheckedConnection
from dimesh.storage.filelock import FileLock
from dimesh.storage.private import make_folder, narrow, open_private

T = TypeVar("T")
Migration = Callable[[sqlite3.Connection], None]

UNWRITABLE: Final = (ValueError, TypeError, OverflowError, MemoryError)
"""The errors that Python's side of SQLite raises for a value that cannot be stored or looked up, such as a string with a
lone surrogate."""


@dataclass(frozen=True, slots=True)
class Format:
    """The format of a file."""

    application_id: int
    """The mark of the file, in its header (``PRAGMA application_id``)."""
    version: int
    """The number of the newest format (``PRAGMA user_version``)."""
    statements: Sequence[str]
    """The statements that create the tables, triggers and indexes of the newest format, without a semicolon. What the
    file defines is compared with their text."""
    migrations: Mapping[int, Migration] = field(default_factory=dict)
    """By version, the function that changes a file of this version into the next one, inside a transaction."""
    unmarked: frozenset[int] = frozenset()
    """The versions that carried no application id."""
    checks: Sequence[Callable[[sqlite3.Connection, Path], object]] = ()
    """Functions that read all rows of a file of the newest format and raise a StorageError about damage."""
    wal: bool = False
    """Whether the file uses a write-ahead log. If it does, write under a :class:`FileLock`."""


def connect(
    path: Path, *, timeout: float = 30.0, factory: type[sqlite3.Connection] = sqlite3.Connection
) -> sqlite3.Connection:
    """Open a connection that begins no transaction by itself and may be used in any thread."""
    return sqlite3.connect(
        path,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
        factory=factory,
    )


def open_file(
    path: Path, format: Format, pragmas: Sequence[str] = (), lock: FileLock | None = None
) -> sqlite3.Connection:
    """Open a file of this format; create it, with its folder, or migrate it as needed.

    Args:
        path: the file.
        format: its format.
        pragmas: settings of the connection, such as "synchronous=FULL".
        lock: held while the file is prepared; needed for a file with a write-ahead log.

    Raises:
        StorageError: the file belongs to another program, has a newer format, is damaged or cannot be written; the
            message says what to do.
    """
    if "\0" in str(path):
        raise StorageError("the path of the database holds a NUL character")
    if os.path.isdir(path):  # unlike Path.is_dir, it accepts any name
        raise StorageError(f"{path} is a folder: name a file")
    make_folder(path.parent)
    try:
        with lock or contextlib.nullcontext():
            if not path.exists():
                # SQLite gives its other files the mode of this one.
                os.close(open_private(path, os.O_RDWR | os.O_CREAT))
            connection = connect(path, factory=CheckedConnection)
            try:
                if format.wal:
                    connection.execute("PRAGMA wal_autocheckpoint=0")
                _prepare(connection, path, format)
                for pragma in pragmas:
                    connection.execute(f"PRAGMA {pragma}")
            except BaseException:
                connection.close()
                raise
    except OSError as error:
        raise StorageError(f"cannot create {path}: {error.strerror}") from error
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise explain(error, path) from error
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, format: Format) -> None:
    # At one moment: another process may be creating the file, and then has its tables but not yet, for us, its mark.
    with snapshot(connection):
        fresh = check_owner(connection, path, format)[2]
    if not fresh:
        for suffix in ("", "-wal", "-shm", "-journal"):
            narrow(Path(f"{path}{suffix}"))
    if format.wal:
        mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise StorageError(
                f"{path} cannot use a write-ahead log (its journal mode stays {mode!r}): keep it on a local disk"
            )
    # In a write transaction: one process creates or migrates the file, and a file that cannot be written fails here.
    with transaction(connection):
        application_id, found, fresh = check_owner(connection, path, format)
        if fresh:
            for statement in format.statements:
                connection.execute(statement)
        else:
            for version in range(found, format.version):
                format.migrations[version](connection)
        if (application_id, found) != (format.application_id, format.version):
            connection.execute(f"PRAGMA application_id={format.application_id}")
            connection.execute(f"PRAGMA user_version={format.version}")
        _check_definitions(connection, path, format)


def check_owner(connection: sqlite3.Connection, path: Path, format: Format) -> tuple[int, int, bool]:
    """Return the application id and the version of a file, and whether it is empty.

    Raises:
        StorageError: the file belongs to another program, or has a newer format.
    """
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    empty = not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application_id == 0 and version == 0 and empty:
        return application_id, version, True
    unmarked = application_id == 0 and version in format.unmarked
    if application_id != format.application_id and not unmarked:
        raise StorageError(f"{path} belongs to another program: choose another file")
    if version > format.version:
        raise StorageError(
            f"{path} has format {version}, this dimesh reads up to {format.version}: upgrade dimesh, or choose "
            "another file"
        )
    if version < format.version and version not in format.migrations:
        raise _damaged(path, f"{version} is not the number of a format")
    return application_id, version, False


def _check_definitions(connection: sqlite3.Connection, path: Path, format: Format) -> None:
    found = {
        _plain(sql) for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
    }
    for statement in format.statements:
        if _plain(statement) not in found:
            kind, name = statement.split()[1:3]
            raise _damaged(path, f"the {kind.lower()} {name} is missing or is defined differently")


def _plain(statement: str) -> str:
    """Return a statement without its comments and line breaks."""
    return " ".join(re.sub(r"--.*", "", statement).split())


def _damaged(path: Path, what: str) -> StorageError:
    return StorageError(f"{path} is damaged ({what}): restore it from a backup, or move it away")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit the writes of a block together, or roll them back if the block raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Let all reads of a block see the file as it is at the first of them."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def explain(error: Exception, path: Path) -> StorageError:
    """Translate an error of SQLite, or of :data:`UNWRITABLE`, for the user."""
    if isinstance(error, UnicodeDecodeError):  # SQLite's own message quotes damaged text
        return _damaged(path, "its definitions or rows hold text that is not UTF-8")
    if isinstance(error, MemoryError):
        return StorageError(f"{path}: there is not enough memory; nothing was written")
    if isinstance(error, UNWRITABLE):
        return UnstorableError(
            f"{path}: a value cannot be stored or looked up ({error}); nothing was written"
        )
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    text = str(error)
    if code == 0 and text.startswith("Could not decode"):
        return _damaged(path, text)
    if code == sqlite3.SQLITE_TOOBIG:
        return UnstorableError(f"{path}: a value is larger than SQLite stores ({text}); nothing was written")
    if code == sqlite3.SQLITE_FULL:
        return StorageError(
            f"the disk (or the quota) is full, {path} could not grow: free space and try again"
        )
    if code == sqlite3.SQLITE_NOTADB:
        return StorageError(
            f"{path} is damaged or not a database ({text}): restore it from a backup, or move it away"
        )
    if code == sqlite3.SQLITE_CORRUPT:
        return _damaged(path, text)
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return StorageError(
            f"{path} cannot be written ({text}): check the owner and mode of the file and its folder"
        )
    if code == sqlite3.SQLITE_CANTOPEN:
        return StorageError(
            f"{path} cannot be opened ({text}): check that the folder exists and can be written"
        )
    if code == sqlite3.SQLITE_BUSY:
        return StorageError(f"{path} is locked by another program ({text}); nothing was written")
    return StorageError(f"{path}: {text}; nothing was written. Check the file, its folder and the disk")


class SharedConnection:
    """A connection that coroutines share. It opens at its first use, and works in threads, one call at a time.

    A call that was begun is finished even if its caller is cancelled.

    Args:
        open: opens the connection; called in a thread.
        explain: translates an error of SQLite.
        lock: held while something is written and while the connection closes; see :mod:`dimesh.storage.filelock`.
    """

    def __init__(
        self,
        open: Callable[[], sqlite3.Connection],
        explain: Callable[[Exception], Exception],
        lock: FileLock | None = None,
    ) -> None:
        self._open = open
        self._explain = explain
        self._lock = lock
        self._connection: sqlite3.Connection | None = None
        self._busy = threading.Lock()
        self._running: set[asyncio.Future[Any]] = set()

    async def open(self) -> None:
        """Open the connection now instead of at its first use."""
        await self.read(lambda _: None)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return the result of ``work``, which is called in a thread, sees one state of the file and must not write."""
        return await self._run(work, False)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return the result of ``work``, which is called in a thread and in a transaction."""
        return await self._run(work, True)

    async def close(self) -> None:
        """Close the connection when the running calls are finished; may be called twice. The next use opens it again."""
        while self._running:
            await asyncio.wait(self._running)
        await asyncio.to_thread(self._close)

    async def _run(self, work: Callable[[sqlite3.Connection], T], writes: bool) -> T:
        running = asyncio.ensure_future(asyncio.to_thread(self._call, work, writes))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return await asyncio.shield(running)

    def _call(self, work: Callable[[sqlite3.Connection], T], writes: bool) -> T:
        with self._busy:
            try:
                if self._connection is None:
                    self._connection = self._open()
                if not writes:
                    with snapshot(self._connection):
                        return work(self._connection)
                with self._locked(), transaction(self._connection):
                    return work(self._connection)
            except (sqlite3.Error, UnicodeDecodeError) as error:
                raise self._explain(error) from error

    def _close(self) -> None:
        with self._busy:
            connection, self._connection = self._connection, None
            if connection is not None:
                with self._locked():
                    connection.close()
            if self._lock is not None:
                self._lock.release()

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return self._lock if self._lock is not None else contextlib.nullcontext()
