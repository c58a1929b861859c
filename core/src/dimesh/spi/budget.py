"""How many requests an account may take, shared by all who ask it: streams, snapshots, several connectors, and with a ledger
several processes of one machine.

The rate goes down when the source says that it is too much, and up again while it does not (additive increase,
multiplicative decrease). Who streams goes before who takes a snapshot.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
import logging
import sqlite3
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from dimesh.clock import Clock

log = logging.getLogger("dimesh.cdc")

_LOWEST: Final = 0.2
_URGENT_FOR: Final = 1.0
"""Seconds that a stream's wish holds snapshots of other processes back, if it is not renewed."""


_FORGOTTEN: Final = 600.0
"""Seconds after which what an account was told before does not count any more, but for a time that was set for it."""


class Urgency(IntEnum):
    """Who goes first."""

    STREAM = 0
    CHECK = 1
    SNAPSHOT = 2


@dataclass(slots=True)
class _Account:
    """What all who share a budget must agree on. Times are those of the clock that its keeper uses."""

    rate: float
    tokens: float
    at: float
    blocked_until: float = 0.0
    urgent_until: float = 0.0
    """A stream waits for a request: snapshots leave it to it."""


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
        self._connection: sqlite3.Connection | None = None
        self._broken = False

    def close(self) -> None:
        """Close the file; it opens again when it is used."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def read(self) -> tuple[_Account | None, bool]:
        """The account, locked until :meth:`write`, and whether it could be; None: it is not in there yet."""
        if self._broken:
            return None, False
        try:
            if self._connection is None:
                self._connection = self._open()
            self._connection.execute("BEGIN IMMEDIATE")
            row = self._connection.execute(
                "SELECT rate, tokens, at, blocked_until, urgent_until FROM accounts WHERE name = ?",
                (self.account,),
            ).fetchone()
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise _BusyError from error  # for as long as another process takes to write a row
            self._fail(error)
            return None, False
        except sqlite3.Error as error:
            self._fail(error)
            return None, False
        return (_Account(*row) if row else None), True

    def write(self, account: _Account) -> None:
        """Store it, and let the others have it."""
        if self._connection is None:
            return
        try:
            self._connection.execute(
                "INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?, ?, ?)",
                (
                    self.account,
                    account.rate,
                    account.tokens,
                    account.at,
                    account.blocked_until,
                    account.urgent_until,
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
            connection.execute(
                "CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, rate REAL, tokens REAL, at REAL,"
                " blocked_until REAL, urgent_until REAL) WITHOUT ROWID"
            )
            connection.execute("PRAGMA busy_timeout = 0")
        except BaseException:
            connection.close()
            raise
        return connection

    def _fail(self, error: sqlite3.Error) -> None:
        self._broken = True
        self.close()
        log.warning("%s cannot be used, so requests are counted for each process alone: %s", self.path, error)


class _BusyError(Exception):
    """Another process writes to the ledger at this moment."""


class Budget:
    """Of one account.

    Args:
        rate: requests a second, at most.
        clock: time.
        burst: requests that may go at once after a pause.
        ledger: shares the budget with other processes; None: this one only.
    """

    def __init__(self, rate: float, clock: Clock, burst: int = 5, ledger: Ledger | None = None) -> None:
        self.limit = rate
        self.spent = 0
        """Requests so far, of this process."""
        self.refused = 0
        """How often the source said that it was too much."""
        self._clock = clock
        self._burst = float(burst)
        self._ledger = ledger
        self._account = _Account(rate, float(burst), self._now())
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._pump: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, account: str, rate: float, clock: Clock, ledger: str | None = None) -> Budget:
        """The one of an account: all who read from it in this process get the same, and with the others of this machine it
        shares a ledger.

        Args:
            account: what tells it from others; may be secret.
            rate: see the class.
            clock: see the class.
            ledger: path of the file; None: one in the user's cache folder; empty: this process shares with nobody.
        """
        # The name stands in a file: it must not help to guess a key.
        name = hashlib.sha256(account.encode()).hexdigest()[:16]
        key = f"{name} {ledger}"
        found = _budgets.get(key)
        if found is None:
            path = default_ledger() if ledger is None else ledger
            found = _budgets[key] = cls(rate, clock, ledger=Ledger(path, name) if path else None)
        return found

    @property
    def rate(self) -> float:
        """What is tried at present."""
        return self._account.rate

    async def take(self, urgency: Urgency) -> None:
        """Return when a request may be made."""
        if not self._waiting and self._take(urgency):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (urgency, next(self._numbers), future))
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._serve(), name="dimesh-budget")
        await future

    def close(self) -> None:
        """Close the ledger; it opens again when it is used."""
        if self._ledger is not None:
            self._ledger.close()

    def too_much(self, retry_after: float | None = None) -> None:
        """The source refused a request for its rate: half as many from now on, and none before ``retry_after`` seconds."""
        self.refused += 1
        shared = self._begin(patient=True)
        account = self._account
        account.rate = max(account.rate / 2, _LOWEST)
        account.tokens = min(account.tokens, 0.0)
        if retry_after is not None:
            account.blocked_until = max(account.blocked_until, self._now() + min(retry_after, 3_600.0))
        self._end(shared)

    def fine(self) -> None:
        """A request was answered."""
        if self._account.rate < self.limit:
            shared = self._begin(patient=True)
            self._account.rate = min(self.limit, self._account.rate + self.limit / 100)
            self._end(shared)

    def _now(self) -> float:
        # Processes share the wall clock; within one, the other never jumps.
        return self._clock.monotonic() if self._ledger is None else self._clock.time()

    def _begin(self, patient: bool = False) -> bool:
        """Bring ``self._account`` up to date; whether it is shared, and :meth:`_end` must be called.

        Raises:
            _BusyError: another process has it, and ``patient`` is not set.
        """
        shared = False
        if self._ledger is not None:
            for tries in itertools.count():
                try:
                    found, shared = self._ledger.read()
                except _BusyError:
                    if not patient:
                        raise
                    if tries < 1_000:
                        continue
                    return False
                break
            if shared and found is not None:
                self._account = found
        now, account = self._now(), self._account
        account.rate = self.limit if now - account.at > _FORGOTTEN else min(account.rate, self.limit)
        if account.at > now:  # the clock was set back
            account.at = now
        account.blocked_until = min(account.blocked_until, now + 3_600.0)
        account.urgent_until = min(account.urgent_until, now + _URGENT_FOR)
        account.tokens = min(self._burst, account.tokens + (now - account.at) * account.rate)
        account.at = now
        return shared

    def _end(self, shared: bool) -> None:
        if shared and self._ledger is not None:
            self._ledger.write(self._account)

    def _take(self, urgency: int) -> bool:
        try:
            shared = self._begin()
        except _BusyError:
            return False
        account = self._account
        allowed = account.at >= account.blocked_until and account.tokens >= 1.0
        if allowed and urgency > Urgency.STREAM and account.at < account.urgent_until:
            allowed = False
        if allowed:
            account.tokens -= 1.0
            self.spent += 1
            if urgency == Urgency.STREAM:
                account.urgent_until = 0.0
        elif shared and urgency == Urgency.STREAM:
            account.urgent_until = account.at + _URGENT_FOR
        self._end(shared)
        return allowed

    async def _serve(self) -> None:
        while self._waiting:
            urgency, _, future = self._waiting[0]
            if future.done():
                heapq.heappop(self._waiting)
            elif self._take(urgency):
                heapq.heappop(self._waiting)
                future.set_result(None)
            else:
                account = self._account
                short = (1.0 - account.tokens) / account.rate
                wait = max(short, account.blocked_until - account.at, 0.001)
                if urgency > Urgency.STREAM:
                    wait = max(wait, min(account.urgent_until - account.at, 0.05))
                await self._clock.sleep(min(wait, 1.0))


_budgets: WeakValueDictionary[str, Budget] = WeakValueDictionary()


def default_ledger() -> Path | None:
    """In the user's cache folder, which is made; None where that cannot be."""
    from platformdirs import user_cache_path

    try:
        return user_cache_path("dimesh", appauthor=False, ensure_exists=True) / "budgets.db"
    except OSError as error:
        log.info("requests are counted for each process alone: %s", error)
        return None
