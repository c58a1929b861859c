"""The file through which the processes of one machine share the budgets of accounts (:mod:`dimesh.sourcekit.budget`)."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dimesh.storage.private import open_private
from dimesh.storage.process import ProcessId, this_process

log = logging.getLogger("dimesh.cdc")

IN_FLIGHT_TTL: Final = 60.0
"""The number of seconds for which the requests in flight of another process count, if this process cannot check that
the other one is alive."""
_VERSION: Final = 4
_TABLES: Final = (
    "DROP TABLE IF EXISTS accounts",
    "DROP TABLE IF EXISTS flights",
    "CREATE TABLE accounts (name TEXT PRIMARY KEY, rate REAL, tokens REAL, at REAL, blocked_until REAL, urgent_until REAL,"
    " concurrency REAL) WITHOUT ROWID",
    "CREATE TABLE flights (name TEXT, process TEXT, place TEXT, count INTEGER, until REAL,"
    " PRIMARY KEY (name, process)) WITHOUT ROWID",
)


@dataclass(slots=True)
class SharedBudget:
    """The state of a budget that all its readers share. Times are those of the rate limiter's clock."""

    rate: float
    tokens: float
    at: float
    blocked_until: float = 0.0
    urgent_until: float = 0.0
    """The time until which snapshots hold back, because a stream waits."""
    concurrency: float = 0.0
    """The number of requests that may be in flight at the same time."""


class Ledger:
    """A small SQLite file, made at its first use.

    Its content need not survive anything: if the file cannot be read, each process keeps to the rate by itself.

    Args:
        path: the path of the file; its folder must exist.
        account: the name of the account; processes that use the same name share its budget. It is stored in the file, so it must
            not be secret.
    """

    def __init__(self, path: str | Path, account: str) -> None:
        self.path = str(path)
        self.account = account
        self._process = uuid.uuid4().hex
        self._place = json.dumps(this_process())
        self._connection: sqlite3.Connection | None = None
        self._broken = False

    def close(self) -> None:
        """Close the file; it opens again when it is used."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def read(self) -> tuple[SharedBudget | None, bool]:
        """Lock the file until :meth:`write`, and return the account's budget and whether the file could be locked.

        The budget is None if the file does not have it yet.

        Raises:
            BusyError: another process has locked the file.
        """
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
                raise BusyError from error  # it takes another process microseconds to write a row
            self._fail(error)
            return None, False
        except sqlite3.Error as error:
            self._fail(error)
            return None, False
        return (SharedBudget(*row) if row else None), True

    def in_flight(self, now: float) -> int:
        """Return the number of requests that other processes have in flight. Call it between :meth:`read` and :meth:`write`."""
        if self._connection is None:
            return 0
        try:
            others = self._connection.execute(
                "SELECT process, place, count FROM flights WHERE name = ? AND process <> ? AND until > ? AND until < ?",
                (self.account, self._process, now, now + 2 * IN_FLIGHT_TTL),
            ).fetchall()
            in_flight = 0
            for process, place, count in others:
                if ProcessId(*json.loads(place)).has_ended():
                    gone = (self.account, process)
                    self._connection.execute("DELETE FROM flights WHERE name = ? AND process = ?", gone)
                else:
                    in_flight += count
        except sqlite3.Error as error:
            self._fail(error)
            return 0
        return in_flight

    def write(self, budget: SharedBudget, in_flight: int) -> None:
        """Store the budget and the number of requests that this process has in flight, and unlock the file."""
        if self._connection is None:
            return
        try:
            if in_flight:
                self._connection.execute(
                    "INSERT OR REPLACE INTO flights VALUES (?, ?, ?, ?, ?)",
                    (
                        self.account,
                        self._process,
                        self._place,
                        in_flight,
                        budget.at + IN_FLIGHT_TTL,
                    ),
                )
            else:
                self._connection.execute(
                    "DELETE FROM flights WHERE name = ? AND (process = ? OR until < ?)",
                    (self.account, self._process, budget.at),
                )
            self._connection.execute(
                "INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    self.account,
                    budget.rate,
                    budget.tokens,
                    budget.at,
                    budget.blocked_until,
                    budget.urgent_until,
                    budget.concurrency,
                ),
            )
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._fail(error)

    def _open(self) -> sqlite3.Connection:
        with contextlib.suppress(OSError):  # SQLite reports the reason
            os.close(open_private(self.path, os.O_RDWR | os.O_CREAT))
        connection = sqlite3.connect(self.path, timeout=0.0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA busy_timeout = 2000")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("BEGIN IMMEDIATE")
            if connection.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                for statement in _TABLES:  # tables of another version go: nothing in them need survive
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
        log.warning("%s cannot be used, so each process counts its requests alone: %s", self.path, error)


class BusyError(Exception):
    """Another process has locked the ledger."""


def default_ledger() -> Path | None:
    """Return the path of the ledger in the user's cache folder, and make that folder; None if that fails."""
    from platformdirs import user_cache_path

    try:
        return user_cache_path("dimesh", appauthor=False, ensure_exists=True) / "budgets.db"
    except OSError as error:
        log.info("each process counts its requests alone: %s", error)
        return None
