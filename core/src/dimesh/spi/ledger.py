"""A small file that the processes of one machine share for the budgets of accounts (:mod:`dimesh.spi.budget`)."""

from __future__ import annotations

import logging
import os
import platform
import sqlite3
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

log = logging.getLogger("dimesh.cdc")

LANDED: Final = 60.0
"""Seconds after which the requests of a process that says nothing more are over, if it cannot be seen whether it lives."""
_VERSION: Final = 3
_TABLES: Final = (
    "DROP TABLE IF EXISTS accounts",
    "DROP TABLE IF EXISTS flights",
    "CREATE TABLE accounts (name TEXT PRIMARY KEY, rate REAL, tokens REAL, at REAL, blocked_until REAL, urgent_until REAL,"
    " concurrency REAL) WITHOUT ROWID",
    "CREATE TABLE flights (name TEXT, process TEXT, place TEXT, pid INTEGER, count INTEGER, until REAL,"
    " PRIMARY KEY (name, process)) WITHOUT ROWID",
)


@dataclass(slots=True)
class Account:
    """What all who share a budget must agree on. Times are those of the clock that its keeper uses."""

    rate: float
    tokens: float
    at: float
    blocked_until: float = 0.0
    urgent_until: float = 0.0
    """A stream waits for a request: snapshots leave it to it."""
    concurrency: float = 0.0
    """Requests that may be on their way at once."""


class Ledger:
    """A small file that the processes of one machine share for their budgets. Made at first use.

    What is in it need not survive anything: if it cannot be read, each process keeps to the rate by itself.

    Args:
        path: of the file; its folder must be there.
        account: names the account; processes that give the same share its rate. No secret: it stands in the file.
    """

    def __init__(self, path: str | Path, account: str) -> None:
        self.path = str(path)
        self.account = account
        self._process = uuid.uuid4().hex
        self._place = _place()
        self._connection: sqlite3.Connection | None = None
        self._broken = False

    def close(self) -> None:
        """Close the file; it opens again when it is used."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def read(self) -> tuple[Account | None, bool]:
        """The account, locked until :meth:`write`, and whether it could be; None: it is not in there yet."""
        if self._broken:
            return None, False
        try:
            if self._connection is None:
                self._connection = self._open()
            self._connection.execute("BEGIN IMMEDIATE")
            row = self._connection.execute(
                "SELECT rate, tokens, at, blocked_until, urgent_until, concurrency FROM accounts WHERE name = ?",
                (self.account,),
            ).fetchone()
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise BusyError from error  # for as long as another process takes to write a row
            self._fail(error)
            return None, False
        except sqlite3.Error as error:
            self._fail(error)
            return None, False
        return (Account(*row) if row else None), True

    def flying(self, now: float) -> int:
        """Requests of the other processes that are on their way. Between :meth:`read` and :meth:`write`."""
        if self._connection is None:
            return 0
        try:
            others = self._connection.execute(
                "SELECT process, place, pid, count FROM flights WHERE name = ? AND process <> ? AND until > ? AND until < ?",
                (self.account, self._process, now, now + 2 * LANDED),
            ).fetchall()
            flying = 0
            for process, place, pid, count in others:
                if place == self._place and not _lives(pid):
                    gone = (self.account, process)
                    self._connection.execute("DELETE FROM flights WHERE name = ? AND process = ?", gone)
                else:
                    flying += count
        except sqlite3.Error as error:
            self._fail(error)
            return 0
        return flying

    def write(self, account: Account, flying: int) -> None:
        """Store it with how many requests of this process are on their way, and let the others have it."""
        if self._connection is None:
            return
        try:
            if flying:
                self._connection.execute(
                    "INSERT OR REPLACE INTO flights VALUES (?, ?, ?, ?, ?, ?)",
                    (self.account, self._process, self._place, os.getpid(), flying, account.at + LANDED),
                )
            else:
                self._connection.execute(
                    "DELETE FROM flights WHERE name = ? AND (process = ? OR until < ?)",
                    (self.account, self._process, account.at),
                )
            self._connection.execute(
                "INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    self.account,
                    account.rate,
                    account.tokens,
                    account.at,
                    account.blocked_until,
                    account.urgent_until,
                    account.concurrency,
                ),
            )
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._fail(error)

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=0.0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA busy_timeout = 2000")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("BEGIN IMMEDIATE")
            if connection.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                for statement in _TABLES:  # those of another version go: nothing in them need survive
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute("COMMIT")
            connection.execute("PRAGMA busy_timeout = 0")
        except BaseException:
            connection.close()
            raise
        return connection

    def _fail(self, error: sqlite3.Error) -> None:
        self._broken = True
        self.close()
        log.warning("%s cannot be used, so requests are counted for each process alone: %s", self.path, error)


class BusyError(Exception):
    """Another process writes to the ledger at this moment."""


def _place() -> str:
    """Where process ids mean the same: containers on one machine may share the file."""
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return platform.node()


def _lives(pid: int) -> bool:
    if sys.platform == "win32":
        return True  # asking by a signal would end it there: the time tells
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


def default_ledger() -> Path | None:
    """In the user's cache folder, which is made; None where that cannot be."""
    from platformdirs import user_cache_path

    try:
        return user_cache_path("dimesh", appauthor=False, ensure_exists=True) / "budgets.db"
    except OSError as error:
        log.info("requests are counted for each process alone: %s", error)
        return None
