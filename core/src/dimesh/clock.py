"""Time as an argument: engines use a :class:`Clock`, and tests pass one that they advance themselves."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic as _monotonic
from time import time as _wall
from typing import Final, Protocol, runtime_checkable

CLOCK_LOOK: Final = 1.0
"""The interval, in seconds, at which a wait for a wall-clock time checks the clock again: it may have been set."""


class Handle(Protocol):
    """A timer that can be cancelled."""

    def cancel(self) -> None:
        """Cancel the timer; does nothing after it has fired."""
        ...


@runtime_checkable
class Clock(Protocol):
    """The clock and the timers that engines and backends use. All values are in seconds."""

    def time(self) -> float:
        """Return the wall-clock time in seconds since the Unix epoch; it may jump."""
        ...

    def monotonic(self) -> float:
        """Return a time that never goes back; for durations only."""
        ...

    def call_later(self, delay: float, callback: Callable[[], object]) -> Handle:
        """Run ``callback`` in the running event loop after ``delay`` seconds."""
        ...

    async def sleep(self, delay: float) -> None:
        """Suspend the caller for ``delay`` seconds."""
        ...


class SystemClock:
    """The machine's clock and the running event loop's timers."""

    time = staticmethod(_wall)
    monotonic = staticmethod(_monotonic)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Handle:
        return asyncio.get_running_loop().call_later(delay, callback)

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay)


@asynccontextmanager
async def time_limit(clock: Clock, seconds: float) -> AsyncIterator[None]:
    """Cancel the body after ``seconds`` of ``clock``, and raise TimeoutError in its place: :func:`asyncio.timeout` on
    our clock.
    """
    async with asyncio.timeout(None) as limit:
        past = asyncio.get_running_loop().time()
        timer = clock.call_later(seconds, lambda: limit.reschedule(past))
        try:
            yield
        finally:
            timer.cancel()


class ManualClock:
    """A clock that stands still until :meth:`advance` moves it; timers fire in order of their due time."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._wall = start
        self._mono = 0.0
        self._timers: list[tuple[float, int, _ManualHandle]] = []
        self._tie = itertools.count()

    def time(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._mono

    def set_wall(self, seconds: float) -> None:
        """Move the wall clock alone, as an administrator or NTP would."""
        self._wall = seconds

    def call_later(self, delay: float, callback: Callable[[], object]) -> Handle:
        handle = _ManualHandle(callback)
        heapq.heappush(self._timers, (self._mono + max(delay, 0.0), next(self._tie), handle))
        return handle

    async def sleep(self, delay: float) -> None:
        if delay <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        handle = self.call_later(delay, lambda: None if woken.done() else woken.set_result(None))
        try:
            await woken
        finally:
            handle.cancel()

    async def advance(self, seconds: float) -> None:
        """Move both clocks forward; let the event loop run after each timer that fires."""
        target = self._mono + seconds
        await _settle()
        while self._timers and self._timers[0][0] <= target:
            due, _, handle = heapq.heappop(self._timers)
            self._wall += max(due - self._mono, 0.0)
            self._mono = max(due, self._mono)
            handle.fire()
            await _settle()
        self._wall += target - self._mono
        self._mono = target
        await _settle()

    @property
    def pending(self) -> int:
        """The number of timers that have not fired."""
        return sum(1 for _, _, handle in self._timers if not handle.cancelled)


class _ManualHandle:
    __slots__ = ("_callback", "cancelled")

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def fire(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            self._callback()


async def _settle(rounds: int = 20) -> None:
    """Let every callback and task that is ready run."""
    for _ in range(rounds):
        await asyncio.sleep(0)
