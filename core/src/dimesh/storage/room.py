"""A bounded room: how many items and bytes may be pending at once, and a fair queue of callers that wait for space.

Callers are served in the order in which they came, which keeps the order of a key. The caller at the head of the queue
leaves it only when it has its space, so that nobody overtakes it between the moment when space is freed and the moment
when the caller runs.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable

from dimesh.clock import Clock
from dimesh.errors import BackpressureError, BusClosedError


class Waiter:
    """A caller in the queue."""

    __slots__ = ("expired", "first", "fits", "future")

    def __init__(self, fits: Callable[[], bool], first: bool) -> None:
        self.fits = fits
        self.first = first
        self.expired = False
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(self) -> None:
        """Have the caller check its condition again."""
        if not self.future.done():
            self.future.set_result(None)

    def expire(self) -> None:
        """End the wait; the caller gets its space if there is some at this moment."""
        self.expired = True
        self.wake()


class WaitQueue:
    """Callers that wait until a condition of their own holds, served in the order in which they came.

    Whoever makes a condition true calls :meth:`wake`. A condition is checked at the head of the queue only, in the event
    loop, and its caller acts on it before anything else runs.
    """

    __slots__ = ("_clock", "closed", "waiters")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.waiters: deque[Waiter] = deque()
        """The callers that wait. A caller that does not want to wait proceeds only if this queue is empty."""
        self.closed = False

    async def wait(self, fits: Callable[[], bool], timeout: float, *, first: bool = False) -> bool:
        """Wait until ``fits()`` is true for the caller at the head of the queue.

        Args:
            fits: the condition; cheap and without side effects.
            timeout: seconds; ``math.inf`` waits without limit, zero or less does not wait.
            first: whether to wait ahead of the callers that are not first, because they may depend on this one.

        Returns:
            False if the condition did not hold within ``timeout``, or the queue was closed: see :attr:`closed`.
        """
        if timeout <= 0:
            return False
        waiters = self.waiters
        waiter = Waiter(fits, first)
        waiters.insert(sum(other.first for other in waiters) if first else len(waiters), waiter)
        timer = self._clock.call_later(timeout, waiter.expire) if timeout < math.inf else None
        try:
            while not self.closed:
                if waiters[0] is waiter and fits():
                    return True
                if waiter.expired:
                    return False
                await waiter.future
                waiter.future = asyncio.get_running_loop().create_future()
            return False
        finally:
            if timer is not None:
                timer.cancel()
            if waiters[0] is waiter:
                waiters.popleft()
                if waiters:
                    waiters[0].wake()  # it checks its condition after this caller has acted
            else:
                waiters.remove(waiter)

    def wake(self) -> None:
        """Wake the caller at the head of the queue if its condition holds."""
        if self.waiters and self.waiters[0].fits():
            self.waiters[0].wake()

    def close(self) -> None:
        """End all waits, now and from now on."""
        self.closed = True
        for waiter in self.waiters:
            waiter.wake()


class Room:
    """A bound on pending items and bytes.

    What is larger than the whole room may enter when it is empty: it could never enter otherwise. The usual case costs
    two comparisons::

        if not room.try_take(count, size):
            await room.take(count, size, timeout)

    Args:
        clock: measures the time-outs.
        max_items: the bound on items.
        max_bytes: the bound on bytes.
        pending: what pending items are, as the beginning of the error message: "records wait to be written to x.db".
        option: the name of the option that sets ``max_items``, for the error message.
    """

    __slots__ = ("_max_bytes", "_max_items", "_option", "_pending", "_queue", "_waiters", "bytes", "items")

    def __init__(
        self, clock: Clock, max_items: float, max_bytes: float, pending: str, option: str = "max_queued"
    ) -> None:
        self.items = 0
        """The number of items that are pending now."""
        self.bytes = 0
        """The bytes that are pending now."""
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._pending = pending
        self._option = option
        self._queue = WaitQueue(clock)
        self._waiters = self._queue.waiters

    def try_take(self, items: int, size: int) -> bool:
        """Take space if there is some and nobody waits for it; return whether it was taken."""
        if self._waiters or self._queue.closed:
            return False
        if self.items and (
            self.items + items > self._max_items or self.bytes + size > self._max_bytes
        ):  # as in _fits; this is the hot path
            return False
        self.items += items
        self.bytes += size
        return True

    async def take(self, items: int, size: int, timeout: float) -> None:
        """Take space; wait for it if there is none.

        Raises:
            BackpressureError: no space came free within ``timeout`` seconds.
            BusClosedError: the room was closed.
        """
        if self.try_take(items, size):
            return
        if not await self._queue.wait(lambda: self._fits(items, size), timeout):
            if self._queue.closed:
                raise BusClosedError("the bus is closed")
            raise BackpressureError(
                f"{self.items:,} {self._pending}; no room came free within {timeout:g} s and nothing was published. "
                f"Publish more slowly, or raise the option {self._option!r}"
            )
        self.items += items
        self.bytes += size

    def free(self, items: int, size: int) -> None:
        """Give space back, and serve the callers that wait for it."""
        self.items -= items
        self.bytes -= size
        if self._waiters:
            self._queue.wake()

    def close(self) -> None:
        """Refuse space from now on; callers that wait get a BusClosedError."""
        self._queue.close()

    def _fits(self, items: int, size: int) -> bool:
        return self.items == 0 or (
            self.items + items <= self._max_items and self.bytes + size <= self._max_bytes
        )
