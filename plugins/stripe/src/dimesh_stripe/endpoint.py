"""Whether the webhook endpoint that wakes the source is enabled. Stripe disables one that fails for days, and says so in a mail
only; changes then come as late as polling brings them, which nobody else would notice.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from dimesh.clock import Clock
from dimesh.errors import CredentialsError, SourceObjectError, SourceUnavailableError
from dimesh.spi.budget import Urgency
from dimesh.spi.cdc import Gap
from dimesh_stripe.client import Client, MissingError
from dimesh_stripe.options import StripeOptions

log = logging.getLogger("dimesh.cdc.stripe")

_PERMISSION = "Give the restricted key the permission Webhook Endpoints: Read"
_ABOUT = "webhook endpoints"


@dataclass(frozen=True, slots=True)
class Outage:
    """The endpoint was found disabled."""

    cause: str
    since: datetime | None
    """When it was last seen enabled; None: never."""
    until: datetime
    """When it was found."""

    def gap(self, object: str) -> Gap:
        """For a stream that has read the feed since: all there was is in it, and that is the repair."""
        return Gap(object, self.cause, self.since, self.until, resnapshot=False)


class EndpointWatch:
    """Asks now and then, once for the streams of all objects."""

    def __init__(self, options: StripeOptions, clock: Clock, client: Client) -> None:
        self._id = options.webhook_endpoint
        self._every = options.webhook_look
        self._clock = clock
        self._client = client
        self._lock = asyncio.Lock()
        self._next = 0.0
        self._enabled: datetime | None = None
        self._refused = False
        self.outage: Outage | None = None
        """That lasts, as far as is known."""
        self.known = self._id is None
        """Whether there is one. It is not known before the first answer."""

    @property
    def seconds(self) -> float:
        """Until the next look is due."""
        return max(self._next - self._clock.monotonic(), 0.0) if self._id is not None else float("inf")

    async def look(self) -> None:
        """Ask, if it is time. What cannot be found out stays as it was: the feed is read all the same.

        Raises:
            CredentialsError: the key is refused.
        """
        if self._id is None:
            return
        async with self._lock:
            if self._clock.monotonic() >= self._next:
                await self._find_out()
                self._next = self._clock.monotonic() + self._every

    async def _find_out(self) -> None:
        try:
            cause = await self._ask()
        except SourceObjectError as error:
            if not self._refused:
                log.warning("%s is not watched: %s. %s", self._id, error, _PERMISSION)
            self._refused = True
            return
        except SourceUnavailableError as error:
            log.warning("whether %s is enabled is not known for now: %s", self._id, error)
            return
        now = datetime.fromtimestamp(self._clock.time(), UTC)
        self._refused, self.known = False, True
        if cause is None:
            self._enabled, self.outage = now, None
        elif self.outage is None:
            self.outage = Outage(cause, self._enabled, now)

    async def problem(self) -> str | None:
        """What stands in the way, for :meth:`StripeSource.check`."""
        if self._id is None:
            return None
        try:
            return await self._ask()
        except SourceObjectError as error:
            return f"{error}. {_PERMISSION}"
        except (CredentialsError, SourceUnavailableError) as error:
            return str(error)

    async def _ask(self) -> str | None:
        """What is wrong with it; once, since nothing is lost without an answer."""
        try:
            found = await self._client.get(
                f"/v1/webhook_endpoints/{self._id}", {}, Urgency.CHECK, _ABOUT, retry_for=0.0
            )
        except MissingError:
            return (
                f"the webhook endpoint {self._id} is not there: changes come by polling until another one is made in "
                "Stripe's Dashboard, and named in the option webhook_endpoint"
            )
        if found.get("status") != "disabled":
            return None
        return (
            f"the webhook endpoint {self._id} is disabled: changes come by polling until it is enabled again in Stripe's "
            "Dashboard"
        )
