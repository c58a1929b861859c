"""How many requests an account may take, shared by all who ask it: streams, snapshots, several connectors.

The rate goes down when the source says that it is too much, and up again while it does not (additive increase,
multiplicative decrease). Who streams goes before who takes a snapshot.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from enum import IntEnum
from typing import Final

from dimesh.clock import Clock

_LOWEST: Final = 0.2


class Urgency(IntEnum):
    """Who goes first."""

    STREAM = 0
    CHECK = 1
    SNAPSHOT = 2


class Budget:
    """Of one account.

    Args:
        rate: requests a second, at most.
        clock: time.
        burst: requests that may go at once after a pause.
    """

    def __init__(self, rate: float, clock: Clock, burst: int = 5) -> None:
        self.limit = rate
        self.rate = rate
        """What is tried at present."""
        self.spent = 0
        """Requests so far."""
        self.refused = 0
        """How often the source said that it was too much."""
        self._clock = clock
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at = clock.monotonic()
        self._blocked_until = 0.0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._pump: asyncio.Task[None] | None = None

    async def take(self, urgency: Urgency) -> None:
        """Return when a request may be made."""
        if not self._waiting and self._take():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (urgency, next(self._numbers), future))
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._serve(), name="dimesh-budget")
        await future

    def too_much(self, retry_after: float | None = None) -> None:
        """The source refused a request for its rate: half as many from now on, and none before ``retry_after`` seconds."""
        self.refused += 1
        self.rate = max(self.rate / 2, _LOWEST)
        self._tokens = min(self._tokens, 0.0)
        if retry_after is not None:
            self._blocked_until = max(
                self._blocked_until, self._clock.monotonic() + min(retry_after, 3_600.0)
            )

    def fine(self) -> None:
        """A request was answered."""
        if self.rate < self.limit:
            self.rate = min(self.limit, self.rate + self.limit / 100)

    def _take(self) -> bool:
        now = self._clock.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if now < self._blocked_until or self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        self.spent += 1
        return True

    async def _serve(self) -> None:
        while self._waiting:
            _, _, future = self._waiting[0]
            if future.done():
                heapq.heappop(self._waiting)
            elif self._take():
                heapq.heappop(self._waiting)
                future.set_result(None)
            else:
                short = (1.0 - self._tokens) / self.rate
                wait = max(short, self._blocked_until - self._clock.monotonic(), 0.001)
                await self._clock.sleep(min(wait, 1.0))
