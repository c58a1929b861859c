"""Watching the webhook endpoint that wakes the source.

Stripe disables an endpoint that fails for days, and reports that by mail only. Changes then arrive as late as polling
brings them, which nobody else would notice.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from dimesh.clock import Clock
from dimesh.errors import CredentialsError, SourceObjectError, SourceUnavailableError
from dimesh.sourcekit.budget import Priority
from dimesh.spi.cdc import Gap
from dimesh_stripe.client import Client, MissingError
from dimesh_stripe.options import StripeOptions

log = logging.getLogger("dimesh.cdc.stripe")

_PERMISSION = "Give the restricted key the permission Webhook Endpoints: Read"
_ABOUT = "webhook endpoints"


@dataclass(frozen=True, slots=True)
class Outage:
    """The time during which the endpoint was disabled."""

    cause: str
    since: datetime | None
    """When the endpoint was last seen enabled; None: never."""
    until: datetime
    """When the outage was found."""

    def gap(self, object: str) -> Gap:
        """Return the gap to report once a stream has read the feed: the feed has all changes, so reading it was the repair."""
        return Gap(object, self.cause, self.since, self.until, resnapshot=False)


class EndpointWatch:
    """Checks the endpoint at intervals, once for the streams of all objects."""

    def __init__(self, options: StripeOptions, clock: Clock, client: Client) -> None:
        self._id = options.webhook_endpoint
        self._interval = options.webhook_look
        self._clock = clock
        self._client = client
        self._lock = asyncio.Lock()
        self._next = 0.0
        self._enabled: datetime | None = None
        self._refused = False
        self.outage: Outage | None = None
        """The current outage, as far as is known."""
        self.known = self._id is None
        """Whether the state of the endpoint is known; it is not before the first answer."""

    @property
    def seconds(self) -> float:
        """The number of seconds until the next check is due."""
        return max(self._next - self._clock.monotonic(), 0.0) if self._id is not None else float("inf")

    async def refresh(self) -> None:
        """Check the endpoint if a check is due. If the check fails, the last state stays: the feed is read in any case.

        Raises:
            CredentialsError: Stripe refuses the key.
        """
        if self._id is None:
            return
        async with self._lock:
            if self._clock.monotonic() >= self._next:
                await self._check()
                self._next = self._clock.monotonic() + self._interval

    async def _check(self) -> None:
        try:
            cause = await self._find_problem()
        except SourceObjectError as error:
            if not self._refused:
                log.warning("%s is not watched: %s. %s", self._id, error, _PERMISSION)
            self._refused = True
            return
        except SourceUnavailableError as error:
            log.warning("whether %s is enabled is unknown for now: %s", self._id, error)
            return
        now = datetime.fromtimestamp(self._clock.time(), UTC)
        self._refused, self.known = False, True
        if cause is None:
            self._enabled, self.outage = now, None
        elif self.outage is None:
            self.outage = Outage(cause, self._enabled, now)

    async def problem(self) -> str | None:
        """Return what is wrong with the endpoint and what to do about it, for :meth:`StripeSource.check`; None: nothing."""
        if self._id is None:
            return None
        try:
            return await self._find_problem()
        except SourceObjectError as error:
            return f"{error}. {_PERMISSION}"
        except (CredentialsError, SourceUnavailableError) as error:
            return str(error)

    async def _find_problem(self) -> str | None:
        """Return what is wrong with the endpoint. There is no retry, since nothing is lost without an answer."""
        try:
            found = await self._client.get(
                f"/v1/webhook_endpoints/{self._id}", {}, Priority.CHECK, _ABOUT, retry_for=0.0
            )
        except MissingError:
            return (
                f"the webhook endpoint {self._id} does not exist: changes arrive by polling until you create another endpoint in "
                "Stripe's Dashboard and name it in the option webhook_endpoint"
            )
        if found.get("status") != "disabled":
            return None
        return (
            f"the webhook endpoint {self._id} is disabled: changes arrive by polling until you enable it again in "
            "Stripe's Dashboard"
        )
