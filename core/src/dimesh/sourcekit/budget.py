"""The budget of requests to an account: how many per second, and how many in flight at the same time.

All readers of an account share one budget: streams, snapshots, several connectors, and with a ledger all processes of a
machine. The rate and the concurrency go down when the system refuses a request for one of them, and up again while it
does not (additive increase, multiplicative decrease). Streams have priority over snapshots, which always leave one
request in flight to them.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from enum import IntEnum
from typing import Final
from weakref import WeakValueDictionary

from dimesh.clock import Clock
from dimesh.sourcekit.ledger import BusyError, Ledger, SharedBudget, default_ledger

_MIN_RATE: Final = 0.2
_URGENT_FOR: Final = 1.0
"""The number of seconds for which a waiting stream holds back snapshots of other processes, unless it renews that."""
_RECHECK: Final = 0.05
"""The number of seconds between checks of what other processes do."""
_FORGET_AFTER: Final = 600.0
"""The number of seconds without requests after which an account starts again with its full rate and concurrency."""
_MAX_BLOCK: Final = 3_600.0
_WINDOW: Final = 60.0
"""The number of seconds over which the use of the budget is measured."""
_SAVED: Final = 10.0
"""The number of requests that an allowance saves up while it is not used."""


class Priority(IntEnum):
    """The priority of a request; the lowest value goes first."""

    STREAM = 0
    CHECK = 1
    SNAPSHOT = 2
    VERIFICATION = 3


class Allowance:
    """The requests that work in the background may make. Within :meth:`spend`, every request of the task has the lowest priority,
    is counted here, and waits for its part of the budget.

    Args:
        clock: time.
        share: the largest part of the requests that the budget allows; None: everything that nothing else needs.
    """

    def __init__(self, clock: Clock, share: float | None = None) -> None:
        self.requests = 0
        """The number of requests so far."""
        self._clock = clock
        self._share = share
        self._tokens = 1.0
        self._at = clock.monotonic()

    @contextmanager
    def spend(self) -> Iterator[None]:
        """Let the requests of the body, and of tasks that it starts, count on this allowance."""
        token = _allowance.set(self)
        try:
            yield
        finally:
            _allowance.reset(token)

    async def take(self, rate: float) -> None:
        """Wait until a request may be made.

        Args:
            rate: the number of requests per second that the whole budget allows now.
        """
        if self._share is not None:
            each = 1.0 / (self._share * rate)
            now = self._clock.monotonic()
            self._tokens = min(self._tokens + (now - self._at) / each, _SAVED)
            self._at = now
            self._tokens -= 1.0  # requests that wait at the same time wait one after the other
            if self._tokens < 0:
                await self._clock.sleep(-self._tokens * each)
        self.requests += 1


class RateLimiter:
    """Limits the requests to one account.

    Args:
        rate: the highest number of requests per second.
        clock: time.
        burst: the number of requests that may go at once after a pause.
        ledger: shares the budget with other processes; None: this process only.
        concurrency: the highest number of requests in flight at the same time.
    """

    def __init__(
        self,
        rate: float,
        clock: Clock,
        burst: int = 5,
        ledger: Ledger | None = None,
        concurrency: int = 10,
    ) -> None:
        self.max_rate = rate
        self.max_concurrency = concurrency
        self.requests = 0
        """The number of requests so far, of this process."""
        self.refused = 0
        """The number of requests that the system refused for their rate or concurrency."""
        self._window_began = clock.monotonic()
        self._in_window = self._in_last_window = 0
        self._clock = clock
        self._burst = float(burst)
        self._ledger = ledger
        self._budget = SharedBudget(rate, float(burst), self._now(), concurrency=float(concurrency))
        self._in_flight = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._serving: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    @classmethod
    def shared(
        cls,
        account: str,
        rate: float,
        clock: Clock,
        ledger: str | None = None,
        concurrency: int = 10,
        burst: int = 5,
    ) -> RateLimiter:
        """Return the rate limiter of an account: the same one for all readers of this process, with a ledger that the other
        processes of this machine share.

        Args:
            account: identifies the account; may be secret.
            rate: see the class.
            clock: see the class.
            ledger: the path of the file; None: a file in the user's cache folder; empty: shared with no other process.
            concurrency: see the class.
            burst: see the class.
        """
        # The name is stored in a file: it must not help to guess a key.
        name = hashlib.sha256(account.encode()).hexdigest()[:16]
        key = f"{name} {ledger}"
        found = _shared.get(key)
        if found is None:
            path = default_ledger() if ledger is None else ledger
            found = _shared[key] = cls(rate, clock, burst, Ledger(path, name) if path else None, concurrency)
        return found

    @property
    def rate(self) -> float:
        """The number of requests per second that is tried at present."""
        return self._budget.rate

    @property
    def concurrency(self) -> int:
        """The number of requests in flight that is tried at present."""
        return int(self._budget.concurrency)

    @property
    def used(self) -> float:
        """The share of the highest rate that this process used in the last minute, from 0 to 1."""
        passed = self._turn_window() / _WINDOW
        return min((self._in_last_window * (1.0 - passed) + self._in_window) / (self.max_rate * _WINDOW), 1.0)

    def _turn_window(self) -> float:
        """Begin a new window where the last one has ended; return the seconds since the beginning of the current one."""
        passed = self._clock.monotonic() - self._window_began
        if passed >= _WINDOW:
            self._in_last_window = self._in_window if passed < 2 * _WINDOW else 0
            self._in_window = 0
            self._window_began += passed - passed % _WINDOW
        return passed % _WINDOW

    @asynccontextmanager
    async def request(self, priority: Priority) -> AsyncIterator[None]:
        """Wait until a request may be made; the body of the ``async with`` makes it, and it is in flight until the body ends."""
        allowance = _allowance.get()
        if allowance is not None:
            await allowance.take(self.rate)
            priority = Priority.VERIFICATION
        if self._waiting or self._try_start(priority) > 0:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (priority, next(self._numbers), future))
            self._changed.set()  # it may go before those that wait already
            if self._serving is None or self._serving.done():
                self._serving = asyncio.create_task(self._serve(), name="dimesh-budget")
            try:
                await future
            except asyncio.CancelledError:
                if future.done() and not future.cancelled():  # it was started at the same moment
                    self._finish()
                raise
        try:
            yield
        finally:
            self._finish()

    def close(self) -> None:
        """Close the ledger; it opens again when it is used."""
        if self._ledger is not None:
            self._ledger.close()

    def throttled(self, retry_after: float | None = None, *, at_once: bool = False) -> None:
        """Record that the system refused a request: halve the rate, or with ``at_once`` the concurrency, and start no request for
        ``retry_after`` seconds.
        """
        self.refused += 1
        shared = self._load(patient=True)
        budget = self._budget
        if at_once:
            budget.concurrency = max(budget.concurrency / 2, 1.0)
        else:
            budget.rate = max(budget.rate / 2, _MIN_RATE)
            budget.tokens = min(budget.tokens, 0.0)
        if retry_after is not None:
            budget.blocked_until = max(budget.blocked_until, self._now() + min(retry_after, _MAX_BLOCK))
        self._store(shared)

    def succeeded(self) -> None:
        """Record that a request was answered: raise the rate and the concurrency a little, up to their limits."""
        budget = self._budget
        if budget.rate < self.max_rate or budget.concurrency < self.max_concurrency:
            shared = self._load(patient=True)
            budget = self._budget
            budget.rate = min(self.max_rate, budget.rate + self.max_rate / 100)
            budget.concurrency = min(
                float(self.max_concurrency), budget.concurrency + 1.0 / budget.concurrency
            )
            self._store(shared)

    def _now(self) -> float:
        # Processes share the wall clock; the monotonic one, which never jumps, is good within a process only.
        return self._clock.monotonic() if self._ledger is None else self._clock.time()

    def _load(self, patient: bool = False) -> bool:
        """Bring the budget up to date; return whether it is shared, so that :meth:`_store` must be called.

        Raises:
            BusyError: another process has the ledger, and ``patient`` is not set.
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
                self._budget = found
        now, budget = self._now(), self._budget
        if now - budget.at > _FORGET_AFTER:
            budget.rate, budget.concurrency = self.max_rate, float(self.max_concurrency)
        budget.rate = min(budget.rate, self.max_rate)
        budget.concurrency = min(budget.concurrency, float(self.max_concurrency))
        if budget.at > now:  # the clock was set back
            budget.at = now
        budget.blocked_until = min(budget.blocked_until, now + _MAX_BLOCK)
        budget.urgent_until = min(budget.urgent_until, now + _URGENT_FOR)
        budget.tokens = min(self._burst, budget.tokens + (now - budget.at) * budget.rate)
        budget.at = now
        return shared

    def _store(self, shared: bool) -> None:
        if shared and self._ledger is not None:
            self._ledger.write(self._budget, self._in_flight)

    def _try_start(self, priority: int) -> float:
        """Start a request if the budget allows it and return 0; else return the seconds until the next try is worthwhile."""
        try:
            shared = self._load()
        except BusyError:
            return 0.001
        budget = self._budget
        wait = max((1.0 - budget.tokens) / budget.rate, budget.blocked_until - budget.at)
        room = int(budget.concurrency)
        if priority > Priority.STREAM:
            room -= room > 1  # one is left to streams
            if budget.at < budget.urgent_until:
                wait = max(wait, min(budget.urgent_until - budget.at, _RECHECK))
        others = self._ledger.in_flight(budget.at) if shared and self._ledger is not None else 0
        if self._in_flight + others >= room:
            wait = max(wait, _RECHECK if others else 1.0)  # the end of a request of this process wakes us
        if wait <= 0:
            budget.tokens -= 1.0
            self.requests += 1
            self._turn_window()
            self._in_window += 1
            self._in_flight += 1
            if priority == Priority.STREAM:
                budget.urgent_until = 0.0
        elif shared and priority == Priority.STREAM:
            budget.urgent_until = budget.at + _URGENT_FOR
        self._store(shared)
        return max(wait, 0.0)

    def _finish(self) -> None:
        self._in_flight -= 1
        self._changed.set()
        if self._ledger is not None:
            self._store(self._load(patient=True))

    async def _serve(self) -> None:
        while self._waiting:
            priority, _, future = self._waiting[0]
            self._changed.clear()
            if future.done():
                heapq.heappop(self._waiting)
            elif (wait := self._try_start(priority)) <= 0:
                heapq.heappop(self._waiting)
                future.set_result(None)
            else:
                timer = self._clock.call_later(min(max(wait, 0.001), 1.0), self._changed.set)
                try:
                    await self._changed.wait()
                finally:
                    timer.cancel()


_allowance: Final[ContextVar[Allowance | None]] = ContextVar("dimesh_allowance", default=None)
_shared: WeakValueDictionary[str, RateLimiter] = WeakValueDictionary()
