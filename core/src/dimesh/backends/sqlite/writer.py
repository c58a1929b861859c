"""The one thread that writes: it takes everything that waits and commits it as one transaction (group commit).

Each fsync makes all waiting publishers' records durable at once, which is what makes ``synchronous=FULL`` fast.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from dimesh.backends.sqlite.database import UNWRITABLE, explain, writer_connection
from dimesh.backends.sqlite.filelock import FileLock
from dimesh.errors import DimeshError, StorageError

T = TypeVar("T")

CHECKPOINT_BYTES: Final = 4 * 1024 * 1024
"""Bytes written, about, after which the write-ahead log is moved into the database. (The size of its file does not tell:
it is written over from the beginning after a checkpoint, and does not shrink.)"""
TRANSACTION_BYTES: Final = 8 * 1024
"""What a transaction writes beside its rows: the pages that it only partly fills."""
MAX_TOGETHER: Final = 10_000
"""Records in one transaction: what comes later waits for the next."""


class Job(Generic[T]):
    """Work inside a write transaction. A DimeshError it raises is its own affair, if it wrote nothing before; any other
    error undoes it.
    """

    __slots__ = ("done", "future", "size", "weight", "work")

    def __init__(
        self,
        work: Callable[[sqlite3.Connection], T],
        future: asyncio.Future[T],
        weight: int,
        done: Callable[[], None] | None,
        size: int,
    ) -> None:
        self.work = work
        self.future = future
        self.weight = weight
        self.done = done
        self.size = size


class Writer:
    """See the module. Made in the event loop's thread; the connection lives in the writer's thread."""

    def __init__(self, path: Path, synchronous: str, lock: FileLock) -> None:
        self._path = path
        self._synchronous = synchronous
        self._lock = lock
        self._jobs: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._connection: sqlite3.Connection | None = None
        self._thread = threading.Thread(target=self._run, name="dimesh-sqlite-writer", daemon=True)
        self.transactions = 0
        self._written = 0
        """Bytes since the last checkpoint, about."""
        self._thread.start()

    def submit(
        self,
        work: Callable[[sqlite3.Connection], T],
        weight: int = 1,
        done: Callable[[], None] | None = None,
        size: int = 0,
    ) -> asyncio.Future[T]:
        """Have ``work`` done in a transaction; the future is done when that is on disk.

        Cancelling the future does not undo the work. ``done`` is called in the event loop in any case. ``weight`` is how
        many records it writes, ``size`` how many bytes, about.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(Job(work, future, weight, done, size))
        return future

    async def close(self) -> None:
        """Do what waits, then end."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    # -- in the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        last = False
        while not last:
            jobs: list[Job[Any]] = []
            weight = 0
            job = self._jobs.get()
            while True:
                if job is None:
                    last = True
                    break
                jobs.append(job)
                weight += job.weight
                if weight >= MAX_TOGETHER:
                    break
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
            if jobs:
                self._answer(jobs, self._transact(jobs))
                # After the answer, so that nobody waits for it.
                self._written += TRANSACTION_BYTES + sum(job.size for job in jobs)
                if self._written >= CHECKPOINT_BYTES:
                    self._checkpoint()
        if self._connection is not None:
            try:
                with self._lock:
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                    self._connection.close()
            except (sqlite3.Error, StorageError):
                pass  # everything acknowledged is in the log already; the next one to open it goes on from there

    def _transact(self, jobs: Sequence[Job[Any]]) -> list[Any]:
        """A result or an exception for each job."""
        try:
            with self._lock:
                if self._connection is None:
                    self._connection = writer_connection(self._path, self._synchronous)
                try:
                    outcomes = self._together(self._connection, jobs)
                except (sqlite3.Error, *UNWRITABLE) as error:
                    if len(jobs) == 1:
                        return [explain(error, self._path)]
                    # One of them is to blame; the others must not suffer.
                    outcomes = []
                    for job in jobs:
                        try:
                            outcomes += self._together(self._connection, (job,))
                        except (sqlite3.Error, *UNWRITABLE) as own:
                            outcomes.append(explain(own, self._path))
                return outcomes
        except sqlite3.Error as error:
            return [explain(error, self._path)] * len(jobs)
        except StorageError as error:
            return [error] * len(jobs)

    def _together(self, connection: sqlite3.Connection, jobs: Sequence[Job[Any]]) -> list[Any]:
        outcomes: list[Any] = []
        connection.execute("BEGIN IMMEDIATE")
        try:
            for job in jobs:
                try:
                    outcomes.append(job.work(connection))
                except DimeshError as error:
                    outcomes.append(error)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self.transactions += 1
        return outcomes

    def _checkpoint(self) -> None:
        self._written = 0
        if self._connection is None:
            return
        try:
            with self._lock:
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except (sqlite3.Error, StorageError):
            pass  # tried again when as much again was written; the log only grows meanwhile

    def _answer(self, jobs: Sequence[Job[Any]], outcomes: Sequence[Any]) -> None:
        try:
            self._loop.call_soon_threadsafe(_settle, jobs, outcomes)
        except RuntimeError:
            pass  # the loop is closed: nobody waits for the answer


def _settle(jobs: Sequence[Job[Any]], outcomes: Sequence[Any]) -> None:
    for job, outcome in zip(jobs, outcomes, strict=True):
        if job.done is not None:
            job.done()
        if job.future.done():
            continue  # cancelled
        if isinstance(outcome, BaseException):
            # Each waiter gets an exception of its own: they would share a traceback otherwise.
            job.future.set_exception(type(outcome)(*outcome.args).with_traceback(None))
        else:
            job.future.set_result(outcome)
