"""The org's event deliveries of the last 24 hours as Salesforce counts them: of all subscribers, not only ours.

https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/resources_limits.htm: accurate within five
minutes, and only for a user with the permission View Setup and Configuration. Without it, the source reports its own
count of the events it received.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

from dimesh.clock import Clock
from dimesh.errors import DimeshError
from dimesh.sourcekit.budget import Priority
from dimesh_salesforce.client import Client

log = logging.getLogger("dimesh.cdc.salesforce")

_INTERVAL: Final = 900.0
_WARN_AT: Final = 0.8
"""The fraction of the allocation from which a warning is logged."""


class Limits:
    """Asks Salesforce at intervals, beside the streams."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._next = 0.0
        self._asking: asyncio.Task[None] | None = None
        self._warned = False
        self.deliveries: tuple[int, int] | None = None
        """The number of events delivered in 24 hours, and the number allowed; None: unknown."""

    def refresh(self) -> None:
        """Ask Salesforce if the interval is over. Does not wait for the answer."""
        now = self._clock.monotonic()
        if now >= self._next and (self._asking is None or self._asking.done()):
            self._next = now + _INTERVAL
            self._asking = asyncio.create_task(self._ask(), name="salesforce-limits")

    async def close(self) -> None:
        """Stop asking; may be called twice."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> None:
        try:
            found: Any = await self._client.get(
                self._client.path("limits"), {}, Priority.CHECK, "the org's limits"
            )
            quota = found["DailyDeliveredPlatformEvents"]
            allowed, left = int(quota["Max"]), int(quota["Remaining"])
        except (DimeshError, KeyError, TypeError, ValueError) as error:
            self.deliveries = None
            log.info("the number of delivered events is unknown: %s", error)
            return
        self.deliveries = (allowed - left, allowed)
        high = allowed - left >= allowed * _WARN_AT
        if high and not self._warned:
            log.warning(
                "%d of the org's %d event deliveries of 24 hours are used: when all are used, capture waits",
                *self.deliveries,
            )
        self._warned = high


def usage(limits: Limits | None, counted: int, configured: int) -> Mapping[str, Any]:
    """Return the deliveries for the status: Salesforce's figures, or else our own count and the option ``allocation``."""
    known = limits.deliveries if limits is not None else None
    return {
        "events_delivered": known[0] if known else counted,
        "events_of_a_day": known[1] if known else configured,
        "events_delivered_to_us": counted,
    }
