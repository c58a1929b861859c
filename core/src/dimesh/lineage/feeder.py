"""Takes records to one sink: slow or failing, it holds up neither recording nor the other sinks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from dimesh.clock import Clock
from dimesh.errors import LineageError
from dimesh.spi.lineage import LineageRecord, LineageSink

logger = logging.getLogger(__name__)

_BATCH: Final = 1_000
FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 30.0
ATTEMPTS: Final = 6
"""Of one batch, before an ordinary sink loses it."""


class SinkFeeder:
    """A backlog and, while there is one, a task that writes it batch by batch.

    The log (``essential``) is tried until it takes the batch, or until ``close``; its backlog is bounded by
    whoever feeds it. Any other sink loses a batch after :data:`ATTEMPTS`, and the oldest of a backlog over
    ``capacity``. What is lost is counted.
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
        self._flying: list[LineageRecord] = []
        self._task: asyncio.Task[None] | None = None
        self._using = asyncio.Lock()
        self._nap: asyncio.Future[None] | None = None
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._closing = False

    @property
    def pending(self) -> int:
        """Records fed but neither written nor lost."""
        return len(self._backlog) + len(self._flying)

    def feed(self, records: Sequence[LineageRecord]) -> None:
        """Hand over records; returns at once."""
        self._backlog.extend(records)
        if not self.essential:
            while len(self._backlog) > self._capacity:
                self._backlog.popleft()
                self.lost += 1
        self._start()

    def _start(self) -> None:
        if self._task is None and self._backlog:
            with contextlib.suppress(RuntimeError):  # no loop runs: the next feed or flush starts it
                self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._backlog:
                async with self._using:
                    take = min(_BATCH, len(self._backlog))
                    self._flying = [self._backlog.popleft() for _ in range(take)]
                    delivered = await self._deliver(self._flying)
                    batch, self._flying = self._flying, []
                if delivered:
                    self.written += len(batch)
                    self._on_written(batch)
                else:
                    self.lost += len(batch)
                self._settle()
        finally:
            if self._flying:  # cancelled: it may have been taken, and twice is harmless
                self._backlog.extendleft(reversed(self._flying))
                self._flying = []
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
                self._note(error)
                if attempt >= ATTEMPTS and (self._closing or not self.essential):
                    return False
                if self.essential:
                    self._refuse()
                await self._pause(self._rng.uniform(0, min(LONGEST_DELAY, FIRST_DELAY * 2**attempt)))
            else:
                self.last_error = ""
                return True

    def _note(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"[:300]
        if not self.last_error:
            logger.warning("lineage sink %s failed: %s", self.sink.name, text)
        self.last_error = text

    async def _pause(self, delay: float) -> None:
        if self._closing:
            delay = min(delay, FIRST_DELAY)
        self._nap = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(delay, self._wake)
        try:
            await self._nap
        finally:
            timer.cancel()
            self._nap = None

    def _wake(self) -> None:
        if self._nap is not None and not self._nap.done():
            self._nap.set_result(None)

    # -- waiting ---------------------------------------------------------------------------------

    def _settle(self) -> None:
        done = self.written + self.lost
        while self._waiting and self._waiting[0][0] <= done:
            _, waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def _refuse(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for _, waiter in waiting:
            if not waiter.done():
                waiter.set_exception(
                    LineageError(
                        f"the lineage log does not take records ({self.last_error}); {self.pending} wait "
                        "and are tried again: free the disk or repair the path"
                    )
                )

    async def flush(self) -> None:
        """Wait until all that was fed is written, or counted as lost.

        Raises:
            LineageError: the log refuses; the records still wait.
        """
        self._start()
        if self.pending:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((self.written + self.lost + self.pending, waiter))
            await waiter

    async def forget(self, before: float) -> int:
        """The sink's ``forget``, not during a write."""
        async with self._using:
            return await self.sink.forget(before)

    async def close(self) -> None:
        """Write what is left, with a bounded number of attempts, then close the sink."""
        self._closing = True
        self._wake()
        self._start()
        while self._task is not None:
            await asyncio.wait({self._task})
            self._start()
        try:
            async with asyncio.timeout(self._timeout):
                await self.sink.close()
        except Exception as error:
            self._note(error)
            if self.essential:
                raise

    def stats(self) -> dict[str, Any]:
        """Figures for operators."""
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
