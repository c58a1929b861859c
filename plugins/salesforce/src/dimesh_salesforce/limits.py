"""What Salesforce itself says of the org's event deliveries: all subscribers' of 24 hours, not only ours.

https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/resources_limits.htm: right within five minutes, and only
for a user with the permission View Setup and Configuration. Without it, what came to us is counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

from dimesh.clock import Clock
from dimesh.errors import DimeshError
from dimesh.spi.budget import Urgency
from dimesh_salesforce.client import Client

log = logging.getLogger("dimesh.cdc.salesforce")

_EVERY: Final = 900.0
_MUCH: Final = 0.8
"""From this part of the allocation on it is worth a warning."""


class Limits:
    """Asks now and then, beside the streams."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._next = 0.0
        self._asking: asyncio.Task[None] | None = None
        self._warned = False
        self.deliveries: tuple[int, int] | None = None
        """Events delivered in 24 hours, and how many may be; None: Salesforce does not say."""

    def look(self) -> None:
        """Ask if it is time to. Does not wait for the answer."""
        now = self._clock.monotonic()
        if now >= self._next and (self._asking is None or self._asking.done()):
            self._next = now + _EVERY
            self._asking = asyncio.create_task(self._ask(), name="salesforce-limits")

    async def close(self) -> None:
        """Stop asking; may be called twice."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> None:
        try:
            found: Any = await self._client.get(
                self._client.path("limits"), {}, Urgency.CHECK, "the org's limits"
            )
            said = found["DailyDeliveredPlatformEvents"]
            most, left = int(said["Max"]), int(said["Remaining"])
        except (DimeshError, KeyError, TypeError, ValueError) as error:
            self.deliveries = None
            log.info("Salesforce does not say how many events were delivered: %s", error)
            return
        self.deliveries = (most - left, most)
        much = most - left >= most * _MUCH
        if much and not self._warned:
            log.warning(
                "%d of the org's %d event deliveries of 24 hours are used: at the end of them, capture waits",
                *self.deliveries,
            )
        self._warned = much


def shown(limits: Limits | None, counted: int, configured: int) -> Mapping[str, Any]:
    """For the status: by Salesforce's word, else by our own count against the option."""
    said = limits.deliveries if limits is not None else None
    return {
        "events_delivered": said[0] if said else counted,
        "events_of_a_day": said[1] if said else configured,
        "events_delivered_to_us": counted,
    }
