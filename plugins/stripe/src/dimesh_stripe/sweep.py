"""Finding silent changes: those of rows that Stripe sends no event of.

Some objects have no ``updated`` event, and balance transactions have none at all. Their rows are listed again, newest first, down
to the oldest one that was not final when they were listed last: 100 rows a request. A row that was listed in the same state
before is left out here; the engine leaves out rows that it published in the same state.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Final, NamedTuple

import msgspec

from dimesh.clock import Clock
from dimesh.spi.cdc import Change
from dimesh_stripe.changes import Row, row_of
from dimesh_stripe.lists import Lists, created
from dimesh_stripe.options import StripeOptions
from dimesh_stripe.resource import Resource

_PAUSE: Final = 9.0
"""The pause after a sweep, as a multiple of its duration."""
_MAX_KNOWN: Final = 200_000
"""The largest number of rows whose state is remembered; further ones are returned at each sweep."""
_DAY: Final = 86_400
_OVERLAP: Final = 600
"""The number of seconds before a sweep in which rows may have been created that it did not list."""
_encode = msgspec.json.Encoder(order="deterministic").encode


class Swept(NamedTuple):
    """A sweep that is complete."""

    began: int
    open: int
    """When the oldest row was created that is not final; the beginning of the sweep, if there is none."""


class Sweep:
    """Lists the rows of one object again.

    Args:
        options: of the source.
        clock: for the intervals.
        now: returns Stripe's time.
        lists: reads the rows.
        resource: the object.
    """

    def __init__(
        self,
        options: StripeOptions,
        clock: Clock,
        now: Callable[[], float],
        lists: Lists,
        resource: Resource,
    ) -> None:
        self._options = options
        self._clock = clock
        self._now = now
        self._lists = lists
        self._resource = resource
        self._known: dict[str, bytes] = {}
        self._running: AsyncIterator[tuple[list[Change], Swept | None]] | None = None
        self._not_before = 0.0

    def seconds(self, swept: int) -> float:
        """Return the number of seconds until the next step is due, ``swept`` being the beginning of the last sweep."""
        if self._running is not None:
            return 0.0
        due = swept + self._options.refresh - self._now()
        return max(due, self._not_before - self._clock.monotonic(), 0.0)

    async def work(
        self, swept: int, oldest: int, budget: float
    ) -> AsyncIterator[tuple[list[Change], Swept | None]]:
        """Go on with the sweep if it is due, for about ``budget`` seconds. Yield rows, at the end with the result."""
        if self.seconds(swept) > 0:
            return
        running = self._running = self._running or self._sweep(oldest)
        until = self._clock.monotonic() + budget
        while True:
            changes, done = await anext(running)
            if done is not None:
                self._running = None
            if changes or done is not None:
                yield changes, done
            if done is not None or self._clock.monotonic() >= until:
                return

    async def _sweep(self, oldest: int) -> AsyncIterator[tuple[list[Change], Swept | None]]:
        began, started = int(self._now()), self._clock.monotonic()
        least = max(oldest, began - self._options.refresh_days * _DAY)
        open_since = began - _OVERLAP
        for number in range(len(self._resource.ways)):
            async for rows, read, _ in self._lists.pages(self._resource, number):
                wanted = [row for row in rows if created(row) >= least]
                open_since = min(
                    [open_since, *(created(r) for r in wanted if not self._resource.is_final(r))]
                )
                yield [change for row in wanted if (change := self._change(row, read))], None
                if len(wanted) < len(rows):
                    break
        self._not_before = self._clock.monotonic() + _PAUSE * (self._clock.monotonic() - started)
        yield [], Swept(began, open_since)

    def _change(self, row: Row, read: float) -> Change | None:
        """Return the change for a row; None if the last sweep found it in the same state."""
        state = hashlib.blake2b(_encode(row), digest_size=10).digest()
        id = str(row["id"])
        if self._known.pop(id, None) == state:
            self._known[id] = state
            return None
        while len(self._known) >= _MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[id] = state
        return row_of(row, self._resource, read, self._options.api_version)
