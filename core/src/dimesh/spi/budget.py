"""How many requests an account may take, a second and at once, shared by all who ask it: streams, snapshots, several
connectors, and with a ledger several processes of one machine.

Rate and concurrency go down when the source says that it is too much of one, and up again while it does not (additive
increase, multiplicative decrease). Who streams goes before who takes a snapshot, and finds a place that snapshots leave free.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum
from typing import Final
from weakref import WeakValueDictionary

from dimesh.clock import Clock
from dimesh.spi.ledger import Account, BusyError, Ledger, default_ledger

_LOWEST: Final = 0.2
_URGENT_FOR: Final = 1.0
"""Seconds that a stream's wish holds snapshots of other processes back, if it is not renewed."""


_LOOK: Final = 0.05
"""Seconds between looks at what other processes do."""
_FORGOTTEN: Final = 600.0
"""Seconds after which what an account was told before does not count any more, but for a time that was set for it."""


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
        ledger: shares the budget with other processes; None: this one only.
        concurrency: requests that may be on their way at once, at most.
    """

    def __init__(
        self,
        rate: float,
        clock: Clock,
        burst: int = 5,
        ledger: Ledger | None = None,
        concurrency: int = 10,
    ) -> None:
        self.limit = rate
        self.most_at_once = concurrency
        self.spent = 0
        """Requests so far, of this process."""
        self.refused = 0
        """How often the source said that it was too much."""
        self._clock = clock
        self._burst = float(burst)
        self._ledger = ledger
        self._account = Account(rate, float(burst), self._now(), concurrency=float(concurrency))
        self._flying = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._pump: asyncio.Task[None] | None = None
        self._landed = asyncio.Event()

    @classmethod
    def of(
        cls, account: str, rate: float, clock: Clock, ledger: str | None = None, concurrency: int = 10
    ) -> Budget:
        """The one of an account: all who read from it in this process get the same, and with the others of this machine it
        shares a ledger.

        Args:
            account: what tells it from others; may be secret.
            rate: see the class.
            clock: see the class.
            ledger: path of the file; None: one in the user's cache folder; empty: this process shares with nobody.
            concurrency: see the class.
        """
        # The name stands in a file: it must not help to guess a key.
        name = hashlib.sha256(account.encode()).hexdigest()[:16]
        key = f"{name} {ledger}"
        found = _budgets.get(key)
        if found is None:
            path = default_ledger() if ledger is None else ledger
            shared = Ledger(path, name) if path else None
            found = _budgets[key] = cls(rate, clock, ledger=shared, concurrency=concurrency)
        return found

    @property
    def rate(self) -> float:
        """Requests a second that are tried at present."""
        return self._account.rate

    @property
    def concurrency(self) -> int:
        """Requests at once that are tried at present."""
        return int(self._account.concurrency)

    @asynccontextmanager
    async def request(self, urgency: Urgency) -> AsyncIterator[None]:
        """Around a request: waits until it may be made, and counts it as on its way until it is left."""
        if self._waiting or self._take(urgency) > 0:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (urgency, next(self._numbers), future))
            self._landed.set()  # it may go before who waits
            if self._pump is None or self._pump.done():
                self._pump = asyncio.create_task(self._serve(), name="dimesh-budget")
            try:
                await future
            except asyncio.CancelledError:
                if future.done() and not future.cancelled():  # it was let go at the same moment
                    self._land()
                raise
        try:
            yield
        finally:
            self._land()

    def close(self) -> None:
        """Close the ledger; it opens again when it is used."""
        if self._ledger is not None:
            self._ledger.close()

    def too_much(self, retry_after: float | None = None, *, at_once: bool = False) -> None:
        """The source refused a request for its rate, or with ``at_once`` for how many there were at once: half as many from now
        on, and none before ``retry_after`` seconds.
        """
        self.refused += 1
        shared = self._begin(patient=True)
        account = self._account
        if at_once:
            account.concurrency = max(account.concurrency / 2, 1.0)
        else:
            account.rate = max(account.rate / 2, _LOWEST)
            account.tokens = min(account.tokens, 0.0)
        if retry_after is not None:
            account.blocked_until = max(account.blocked_until, self._now() + min(retry_after, 3_600.0))
        self._end(shared)

    def fine(self) -> None:
        """A request was answered."""
        account = self._account
        if account.rate < self.limit or account.concurrency < self.most_at_once:
            shared = self._begin(patient=True)
            account = self._account
            account.rate = min(self.limit, account.rate + self.limit / 100)
            account.concurrency = min(
                float(self.most_at_once), account.concurrency + 1.0 / account.concurrency
            )
            self._end(shared)

    def _now(self) -> float:
        # Processes share the wall clock; within one, the other never jumps.
        return self._clock.monotonic() if self._ledger is None else self._clock.time()

    def _begin(self, patient: bool = False) -> bool:
        """Bring ``self._account`` up to date; whether it is shared, and :meth:`_end` must be called.

        Raises:
            BusyError: another process has it, and ``patient`` is not set.
        """
        shared = False
        if self._ledger is not None:
            for tries in itertools.count():
                try:
                    found, shared = self._ledger.read()
                except BusyError:
                    if not patient:
                        raise
                    if tries < 1_000:
                        continue
                    return False
                break
            if shared and found is not None:
                self._account = found
        now, account = self._now(), self._account
        if now - account.at > _FORGOTTEN:
            account.rate, account.concurrency = self.limit, float(self.most_at_once)
        account.rate = min(account.rate, self.limit)
        account.concurrency = min(account.concurrency, float(self.most_at_once))
        if account.at > now:  # the clock was set back
            account.at = now
        account.blocked_until = min(account.blocked_until, now + 3_600.0)
        account.urgent_until = min(account.urgent_until, now + _URGENT_FOR)
        account.tokens = min(self._burst, account.tokens + (now - account.at) * account.rate)
        account.at = now
        return shared

    def _end(self, shared: bool) -> None:
        if shared and self._ledger is not None:
            self._ledger.write(self._account, self._flying)

    def _take(self, urgency: int) -> float:
        """Seconds until it is worth another try; 0: the request may be made, and counts as on its way."""
        try:
            shared = self._begin()
        except BusyError:
            return 0.001
        account = self._account
        wait = max((1.0 - account.tokens) / account.rate, account.blocked_until - account.at)
        room = int(account.concurrency)
        if urgency > Urgency.STREAM:
            room -= room > 1  # a stream finds a place
            if account.at < account.urgent_until:
                wait = max(wait, min(account.urgent_until - account.at, _LOOK))
        others = self._ledger.flying(account.at) if shared and self._ledger is not None else 0
        if self._flying + others >= room:
            wait = max(wait, _LOOK if others else 1.0)  # of one's own, who lands says so
        if wait <= 0:
            account.tokens -= 1.0
            self.spent += 1
            self._flying += 1
            if urgency == Urgency.STREAM:
                account.urgent_until = 0.0
        elif shared and urgency == Urgency.STREAM:
            account.urgent_until = account.at + _URGENT_FOR
        self._end(shared)
        return max(wait, 0.0)

    def _land(self) -> None:
        self._flying -= 1
        self._landed.set()
        if self._ledger is not None:
            self._end(self._begin(patient=True))

    async def _serve(self) -> None:
        while self._waiting:
            urgency, _, future = self._waiting[0]
            self._landed.clear()
            if future.done():
                heapq.heappop(self._waiting)
            elif (wait := self._take(urgency)) <= 0:
                heapq.heappop(self._waiting)
                future.set_result(None)
            else:
                timer = self._clock.call_later(min(max(wait, 0.001), 1.0), self._landed.set)
                try:
                    await self._landed.wait()
                finally:
                    timer.cancel()


_budgets: WeakValueDictionary[str, Budget] = WeakValueDictionary()
