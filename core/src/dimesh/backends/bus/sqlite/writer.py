"""The one thread that writes: it commits all pending work as one transaction (group commit).

Each fsync makes the records of all waiting publishers durable at once, which is what makes ``synchronous=FULL`` fast.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

from dimesh.backends.bus.sqlite.database import writer_connection
from dimesh.backends.bus.sqlite.ends import Ends
from dimesh.errors import DimeshError, StorageError
from dimesh.storage.filelock import FileLock
from dimesh.storage.sqlitefile import UNWRITABLE, explain

log = logging.getLogger("dimesh.bus.sqlite")

T = TypeVar("T")

CHECKPOINT_BYTES: Final = 4 * 1024 * 1024
"""The approximate bytes written after which the write-ahead log is moved into the database. (The size of the log's file is
no measure: after a checkpoint it is overwritten from the beginning and does not shrink.)"""
TRANSACTION_BYTES: Final = 8 * 1024
"""The bytes that a transaction writes beside its rows: the pages that it only partly fills."""
MAX_TOGETHER: Final = 10_000
"""The number of records in one transaction; further ones wait for the next."""


class Job(Generic[T]):
    """Work inside a write transaction.

    A DimeshError that it raises before it has written anything concerns this job only; any other error undoes the
    transaction.
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


class Repeated(Protocol):
    """Work that the writer's thread does again and again, by itself."""

    interval: float
    """Seconds between two times."""

    def __call__(self, connection: sqlite3.Connection) -> None:
        """Do it, in a transaction."""
        ...


class Writer:
    """See the module. Created in the event loop's thread; the connection lives in the writer's thread."""

    def __init__(self, path: Path, synchronous: str, lock: FileLock) -> None:
        self._path = path
        self._synchronous = synchronous
        self._lock = lock
        self._jobs: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._connection: sqlite3.Connection | None = None
        self._thread = threading.Thread(target=self._run, name="dimesh-sqlite-writer", daemon=True)
        self.ends = Ends()
        """The ends of topics, for the work in the writer's thread."""
        self._repeated: Repeated | None = None
        self._due = 0.0
        """The monotonic time at which the repeated work is due."""
        self.transactions = 0
        self._written = 0
        """The approximate bytes since the last checkpoint."""
        self._thread.start()

    def submit(
        self,
        work: Callable[[sqlite3.Connection], T],
        weight: int = 1,
        done: Callable[[], None] | None = None,
        size: int = 0,
    ) -> asyncio.Future[T]:
        """Queue work for a transaction, and return a future that is done when the transaction is on disk.

        Cancelling the future does not undo the work.

        Args:
            work: called in the writer's thread; its result is the future's.
            weight: the number of records that it writes.
            done: called in the event loop when the work is finished, whether it succeeded or not.
            size: the approximate bytes that it writes.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(Job(work, future, weight, done, size))
        return future

    def repeat(self, work: Repeated) -> None:
        """Do work at intervals, whether the event loop runs or not, from the next job on."""
        self._due = time.monotonic() + work.interval
        self._repeated = work

    async def close(self) -> None:
        """Finish the pending work, then end the thread."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    # -- in the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        last = False
        while not last:
            jobs: list[Job[Any]] = []
            weight = 0
            job = self._next()
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
                self._answer(jobs, self._transact([job.work for job in jobs]))
                # After the answer, so that no caller waits for it.
                self._written += TRANSACTION_BYTES + sum(job.size for job in jobs)
                if self._written >= CHECKPOINT_BYTES:
                    self._checkpoint()
        if self._connection is not None:
            try:
                with self._lock:
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                    self._connection.close()
            except (sqlite3.Error, StorageError):
                pass  # everything acknowledged is in the log, which the next process to open the file continues

    def _next(self) -> Job[Any] | None:
        """Wait for a job; meanwhile do the repeated work whenever it is due."""
        while self._repeated is not None:
            wait = self._due - time.monotonic()
            if wait <= 0:
                self._due = time.monotonic() + self._repeated.interval
                (outcome,) = self._transact((self._repeated,))
                if isinstance(outcome, Exception):
                    log.warning("a heartbeat was not written: %s", outcome)
                continue
            try:
                return self._jobs.get(timeout=wait)
            except queue.Empty:
                continue
        return self._jobs.get()

    def _transact(self, works: Sequence[Callable[[sqlite3.Connection], Any]]) -> list[Any]:
        """Return a result or an exception for each piece of work."""
        try:
            with self._lock:
                if self._connection is None:
                    self._connection = writer_connection(self._path, self._synchronous)
                try:
                    outcomes = self._together(self._connection, works)
                except Exception as error:
                    if len(works) == 1:
                        return [self._explained(error)]
                    # One of them caused the error; the others must not fail with it.
                    outcomes = []
                    for work in works:
                        try:
                            outcomes += self._together(self._connection, (work,))
                        except Exception as own:
                            outcomes.append(self._explained(own))
                return outcomes
        except StorageError as error:
            return [error] * len(works)
        except Exception as error:
            return [self._explained(error)] * len(works)

    def _explained(self, error: Exception) -> StorageError:
        """Return the error for the caller. What nobody expected must not end this thread: all others would wait for ever."""
        if isinstance(error, (sqlite3.Error, *UNWRITABLE)):
            return explain(error, self._path)
        log.error("unexpected error while writing %s", self._path, exc_info=error)
        return StorageError(
            f"{self._path}: unexpected {error!r}; nothing was written. This is a bug in dimesh: report it"
        )

    def _together(
        self, connection: sqlite3.Connection, works: Sequence[Callable[[sqlite3.Connection], Any]]
    ) -> list[Any]:
        outcomes: list[Any] = []
        connection.execute("BEGIN IMMEDIATE")
        try:
            self.ends.begin(connection)
            for work in works:
                try:
                    outcomes.append(work(connection))
                except DimeshError as error:
                    outcomes.append(error)
            connection.execute("COMMIT")
        except BaseException:
            self.ends.forget()
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
            pass  # tried again after the same amount of writing; until then the log only grows

    def _answer(self, jobs: Sequence[Job[Any]], outcomes: Sequence[Any]) -> None:
        try:
            self._loop.call_soon_threadsafe(_settle, jobs, outcomes)
        except RuntimeError:
            pass  # the loop is closed: no caller waits for the answer


def _settle(jobs: Sequence[Job[Any]], outcomes: Sequence[Any]) -> None:
    for job, outcome in zip(jobs, outcomes, strict=True):
        if job.done is not None:
            job.done()
        if job.future.done():
            continue  # cancelled
        if isinstance(outcome, BaseException):
            # Each caller gets an exception of its own: a shared one would collect all their tracebacks.
            job.future.set_exception(type(outcome)(*outcome.args).with_traceback(None))
        else:
            job.future.set_result(outcome)
