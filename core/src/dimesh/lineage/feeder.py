"""The feeder of one sink. A sink that is slow or fails delays neither the recording nor the other sinks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from dimesh.clock import Clock
from dimesh.errors import LineageError, describe
from dimesh.printable import printable
from dimesh.spi.lineage import LineageRecord, LineageSink
from dimesh.tasks import end_tasks, finish

logger = logging.getLogger(__name__)

_BATCH: Final = 1_000
FIRST_DELAY: Final = 0.1
LOG_LIMIT: Final = 60.0
"""The seconds that the log of record gets to close."""
MAX_DELAY: Final = 30.0
ATTEMPTS: Final = 6
"""The number of attempts to write a batch before a sink other than the log loses it."""


class SinkFeeder:
    """A backlog of records and, while it is not empty, a task that writes it to the sink in batches.

    A batch for the log (``essential``) is tried until it is written or the feeder is closed; the recorder bounds its backlog.
    Any other sink loses a batch after :data:`ATTEMPTS`, and the oldest records of a backlog over ``capacity``. Lost records
    are counted.
    """

    def __init__(
        self,
        sink: LineageSink,
        clock: Clock,
        rng: random.Random,
        *,
        essential: bool,
        capacity: int,
        timeout: float,
        on_written: Callable[[Sequence[LineageRecord]], None],
    ) -> None:
        self.sink = sink
        self.essential = essential
        self.written = self.lost = self.retries = 0
        self.last_error = ""
        self._clock = clock
        self._rng = rng
        self._capacity = capacity
        self._timeout = None if essential else timeout
        self._on_written = on_written
        self._backlog: deque[LineageRecord] = deque()
        self._in_flight: list[LineageRecord] = []
        self._task: asyncio.Task[None] | None = None
        self._in_use = asyncio.Lock()
        self._pausing: asyncio.Future[None] | None = None
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._closing = False

    @property
    def pending(self) -> int:
        """The number of records that are neither written nor lost yet."""
        return len(self._backlog) + len(self._in_flight)

    def feed(self, records: Sequence[LineageRecord]) -> None:
        """Add records to the backlog. Returns at once."""
        self._backlog.extend(records)
        if not self.essential:
            while len(self._backlog) > self._capacity:
                self._backlog.popleft()
                self.lost += 1
        self._start()

    def _start(self) -> None:
        if self._task is None and self._backlog:
            with contextlib.suppress(
                RuntimeError
            ):  # without a running loop, the next feed or flush starts the task
                self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._backlog:
                async with self._in_use:
                    take = min(_BATCH, len(self._backlog))
                    self._in_flight = [self._backlog.popleft() for _ in range(take)]
                    delivered = await self._deliver(self._in_flight)
                    batch, self._in_flight = self._in_flight, []
                if delivered:
                    self.written += len(batch)
                    self._on_written(batch)
                else:
                    self.lost += len(batch)
                self._settle()
        finally:
            if (
                self._in_flight
            ):  # cancelled: the batch may have been written, and writing it twice is harmless
                self._backlog.extendleft(reversed(self._in_flight))
                self._in_flight = []
            self._task = None

    async def _deliver(self, batch: Sequence[LineageRecord]) -> bool:
        attempt = 0
        while True:
            try:
                async with asyncio.timeout(self._timeout):
                    await self.sink.write(batch)
            except Exception as error:
                attempt += 1
                self.retries += 1
                self._record_error(error)
                if attempt >= ATTEMPTS and (self._closing or not self.essential):
                    return False
                if self.essential:
                    self._fail_waiters()
                await self._pause(self._rng.uniform(0, min(MAX_DELAY, FIRST_DELAY * 2**attempt)))
            else:
                self.last_error = ""
                return True

    def _record_error(self, error: Exception) -> None:
        text = describe(error, 300)
        if not self.last_error:
            logger.warning("lineage sink %s failed: %s", self.sink.name, printable(text))
        self.last_error = text

    async def _pause(self, delay: float) -> None:
        if self._closing:
            delay = min(delay, FIRST_DELAY)
        self._pausing = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(delay, self._wake)
        try:
            await self._pausing
        finally:
            timer.cancel()
            self._pausing = None

    def _wake(self) -> None:
        if self._pausing is not None and not self._pausing.done():
            self._pausing.set_result(None)

    # -- waiting ---------------------------------------------------------------------------------

    def _settle(self) -> None:
        done = self.written + self.lost
        while self._waiters and self._waiters[0][0] <= done:
            _, waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def _fail_waiters(self) -> None:
        waiters, self._waiters = self._waiters, deque()
        for _, waiter in waiters:
            if not waiter.done():
                waiter.set_exception(
                    LineageError(
                        f"the lineage log cannot be written ({self.last_error}); {self.pending} pending records are kept and "
                        "tried again: free disk space, or repair the path"
                    )
                )

    async def flush(self) -> None:
        """Wait until all records so far are written, or counted as lost.

        Raises:
            LineageError: the log cannot be written. The records stay in the backlog.
        """
        self._start()
        if self.pending:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append((self.written + self.lost + self.pending, waiter))
            await waiter

    async def forget(self, before: float) -> int:
        """Prune the sink, while nothing is written to it."""
        async with self._in_use:
            return await self.sink.forget(before)

    async def close(self) -> None:
        """Write the rest of the backlog, with a bounded number of attempts, then close the sink."""
        self._closing = True
        self._wake()
        self._start()
        name = f"lineage sink {self.sink.name}"
        # The log of record has no time limit: it is a file of this machine.
        patience = None if self._timeout is None else (self._timeout + FIRST_DELAY) * (ATTEMPTS + 1)
        while (task := self._task) is not None:
            before = self.written + self.lost
            done, _ = await asyncio.wait({task}, timeout=patience)
            if not done and self.written + self.lost == before:  # it swallows the time-outs of its attempts
                self.lost += self.pending
                self._backlog.clear()
                self._in_flight = []
                await end_tasks((task,))
                self._settle()
                break
            self._start()
        try:
            limit = self._timeout or LOG_LIMIT
            if not await finish(self.sink.close(), f"closing {name}", limit):
                raise TimeoutError(f"closing {name} took longer than {limit:g} s")
        except Exception as error:
            self._record_error(error)
            if self.essential:
                raise

    def stats(self) -> dict[str, Any]:
        """Return figures for operators."""
        return {
            "name": self.sink.name,
            "log": self.essential,
            "written": self.written,
            "waiting": self.pending,
            "lost": self.lost,
            "retries": self.retries,
            "last_error": self.last_error,
            **self.sink.stats(),
        }
