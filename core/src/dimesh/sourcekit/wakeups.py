"""Waiting until something wakes a stream, or until it is time to poll again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dimesh.clock import Clock, time_limit


class WakeUp:
    """Wakes one stream. :meth:`set` may be called at any time, also while the stream reads: the next wait then returns
    at once.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the stream."""
        self._event.set()

    def clear(self) -> None:
        """Forget the wake-ups so far. Call it before the system is read, so that none is lost that comes meanwhile."""
        self._event.clear()

    async def wait(self, seconds: float) -> bool:
        """Wait for a wake-up, but no longer than the poll interval; return whether there was one."""
        try:
            async with time_limit(self._clock, seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        return True


class WakeUps:
    """The wake-ups of a source, one for each object that is streamed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_object: dict[str, WakeUp] = {}

    def __contains__(self, object: str) -> bool:
        return object in self._by_object

    def of(self, object: str) -> WakeUp:
        """Return the wake-up of an object; the first call makes it."""
        return self._by_object.setdefault(object, WakeUp(self._clock))

    def wake(self, concerns: Callable[[str], bool]) -> None:
        """Wake the streams of all objects for which ``concerns(object)`` is true."""
        for name, wake_up in self._by_object.items():
            if concerns(name):
                wake_up.set()
