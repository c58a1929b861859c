"""Waiting for the next poll, or for the moment at which an export shows what a webhook reported."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dimesh.clock import Clock, time_limit


class Bell:
    """Wakes one stream. A change is shown ``hold_back`` seconds after it happened, so a webhook wakes the stream that much later;
    further webhooks meanwhile keep their own moments.
    """

    def __init__(self, clock: Clock, hold_back: float) -> None:
        self._clock = clock
        self._hold_back = hold_back
        self._due: list[float] = []
        self._changed = asyncio.Event()

    def ring(self) -> None:
        """Note that something happened now."""
        due = self._clock.monotonic() + self._hold_back
        # Webhooks of one moment are served by one poll: it shows what all of them reported.
        if self._due and len(self._due) > 1 and due - self._due[-2] < 0.02 + self._hold_back / 60:
            self._due[-1] = due
        else:
            self._due.append(due)
        self._changed.set()

    def clear(self) -> None:
        """Forget the moments that have come. Call it before the export is read, so that none is lost that comes meanwhile."""
        now = self._clock.monotonic()
        self._due = [due for due in self._due if due > now]
        self._changed.clear()

    async def wait(self, seconds: float) -> None:
        """Wait until a moment has come, but no longer than the poll interval."""
        end = self._clock.monotonic() + seconds
        while True:
            now = self._clock.monotonic()
            due = min([end, *self._due])
            if due <= now:
                return
            self._changed.clear()
            try:
                async with time_limit(self._clock, due - now):
                    await self._changed.wait()
            except TimeoutError:
                return


class Bells:
    """The bells of a source, one for each object that is streamed."""

    def __init__(self, clock: Clock, hold_back: float) -> None:
        self._clock = clock
        self._hold_back = hold_back
        self._by_object: dict[str, Bell] = {}

    def of(self, object: str, held_back: bool = True) -> Bell:
        """Return the bell of an object; the first call makes it."""
        return self._by_object.setdefault(object, Bell(self._clock, self._hold_back if held_back else 0.0))

    def ring(self, concerns: Callable[[str], bool]) -> None:
        """Ring the bells of all objects for which ``concerns(object)`` is true."""
        for name, bell in self._by_object.items():
            if concerns(name):
                bell.ring()
