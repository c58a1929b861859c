"""The Stripe source. Snapshots read lists; streams follow the feed of events (``/v1/events``), or the object's own list if Stripe
sends no events of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

from dimesh.capabilities import Capabilities, Capability
from dimesh.clock import Clock
from dimesh.errors import (
    ConfigurationError,
    CredentialsError,
    SourceObjectError,
    SourceUnavailableError,
)
from dimesh.sourcekit.budget import Priority
from dimesh.sourcekit.wakeups import WakeUps
from dimesh.spi.cdc import Before, Change, ChangeBatch, CheckResult
from dimesh_stripe.changes import Row, added_row, change_of, cut_lists, entries_of
from dimesh_stripe.client import Client
from dimesh_stripe.descriptions import list_params, schema
from dimesh_stripe.endpoint import EndpointWatch
from dimesh_stripe.feed import Feed, Listing
from dimesh_stripe.lists import AT_ONCE, Lists, together
from dimesh_stripe.options import StripeOptions
from dimesh_stripe.resource import Resource
from dimesh_stripe.resources import REFUSED, RESOURCES
from dimesh_stripe.sweep import Sweep
from dimesh_stripe.v2 import V2, ThinFeed
from dimesh_stripe.webhooks import WebhookReceiver

if TYPE_CHECKING:
    from starlette.applications import Starlette


NOTHING: Final = b"[]"
"""The position of an object without events: its rows are listed again."""
IDLE: Final = 60.0


class StripeSource:
    """Reads one account; see :class:`dimesh.spi.cdc.CDCSource`.

    Args:
        options: the options.
        clock: time.
        budget: the name of the budget of requests, beside the key; None: each account has its own.
    """

    system = "stripe"
    read_lag = 2.0
    changed_at = None
    capabilities = Capabilities(
        Capability.SNAPSHOT,
        Capability.STREAM,
        Capability.DELETES,
        Capability.BEFORE_IMAGE,
        Capability.DESCRIBED,
        notes={Capability.DELETES: "cancelling a subscription is an update: the subscription stays"},
    )

    def __init__(self, options: StripeOptions, clock: Clock, budget: str | None = None) -> None:
        self.options = options
        self._clock = clock
        self._client = Client(options, clock, options.account if budget is None else budget)
        self._thin = ThinFeed(options, clock, self._client)
        self._watch = EndpointWatch(options, clock, self._client)
        self._lists = Lists(options, self._client)
        self._wake_ups = WakeUps(clock)

    async def open(self) -> None:
        """Connect, and check that the key may read events."""
        await self.connect()
        try:
            await self.check_events()
        except BaseException:
            await self._client.close()
            raise

    async def connect(self) -> None:
        """Make the connection pool."""
        await self._client.open()

    async def check_events(self) -> None:
        """Check that the key may read events.

        Raises:
            CredentialsError: it may not.
            SourceUnavailableError: there is no answer.
        """
        try:
            await self._client.get("/v1/events", {"limit": 1}, Priority.CHECK, "events")
        except SourceObjectError as error:
            raise CredentialsError(f"the key must be allowed to read events: {error}") from error

    async def close(self) -> None:
        """Close the connections; may be called twice."""
        await self._client.close()

    async def check(self) -> CheckResult:
        """Check what the key may read, and name missing permissions."""
        found: dict[str, str] = {}
        problems: list[str] = []
        try:
            await self._client.get("/v1/events", {"limit": 1}, Priority.CHECK, "events")
        except (SourceObjectError, CredentialsError, SourceUnavailableError) as error:
            problems.append(f"{error}. Give the restricted key the permission to read Events")
        if problem := await self._watch.problem():
            problems.append(problem)
        # Whether the lists below a parent may be read, only a parent's list can show.
        listed = [r for r in (*RESOURCES.values(), *V2.values()) if not r.ways[0].under]
        for begin in range(0, len(listed), AT_ONCE):
            group = listed[begin : begin + AT_ONCE]
            obstacles = await together([self._obstacle(resource) for resource in group])
            found |= {resource.name: obstacle for resource, obstacle in zip(group, obstacles, strict=True)}
        return CheckResult(not problems, found, problems)

    async def _obstacle(self, resource: Resource) -> str:
        """Return why an object cannot be read; empty: it can."""
        api = "v2" if resource.family else "v1"
        limit = {"limit": 1} if resource.family or "limit" in list_params(resource.path) else {}
        params = {**limit, **resource.ways[0].params}
        try:
            await self._client.get(f"/{api}/{resource.path}", params, Priority.CHECK, resource.name)
        except (SourceObjectError, CredentialsError, SourceUnavailableError) as error:
            return str(error)
        return ""

    def account(self) -> dict[str, Any]:
        """Return the usage of the account's budget by this process."""
        budget = self._client.budget
        return {
            "requests": budget.requests,
            "requests_refused": budget.refused,
            "requests_a_second": round(budget.rate, 2),
            "requests_at_once": budget.concurrency,
            "budget_used": round(budget.used, 4),
        }

    async def schema(self, object: str) -> dict[str, Any] | None:
        """Return a JSON Schema of an object's rows in the API version that this release was made for; sends no request."""
        return schema(_resource(object).name)

    def hint(self, event_type: str) -> None:
        """Read the feed at once for objects that events of this type concern: a webhook reported one."""
        self._wake_ups.wake(lambda name: _resource(name).matches(event_type))

    def webhooks(self, hint: Callable[[str], object], path: str) -> Starlette:
        """Return the ASGI application that receives Stripe's webhooks; see :class:`dimesh.spi.cdc.WebhookSource`."""
        if not self.options.webhook_secrets:
            raise ConfigurationError(
                "webhooks need the option webhook_secrets, with the endpoint's signing secret (whsec_…)",
                subject="source 'stripe'",
            )
        secrets = [secret.reveal() for secret in self.options.webhook_secrets]
        return WebhookReceiver(hint, secrets, clock=self._clock).app(path)

    # -- the feed ----------------------------------------------------------------------------------

    async def position(self, object: str) -> bytes:
        """Return the current position; see the SPI."""
        resource = _resource(object)
        if object in V2:
            return await self._thin.position(resource)
        if not resource.types and not resource.follows:
            return NOTHING
        return await self._feed(resource).position()

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        """Yield the changes after a position; see the SPI."""
        resource = _resource(object)
        wake_up = self._wake_ups.of(object)
        while not resource.types and not resource.follows and object not in V2:
            await wake_up.wait(IDLE)  # nothing reports changes: the rows are listed again
        feed = (
            self._thin.stream(resource, position, wake_up)
            if object in V2
            else self._feed(resource).stream(position, wake_up)
        )
        async with aclosing(cast(Any, feed)) as batches:
            async for batch in batches:
                yield batch

    def _feed(self, resource: Resource) -> Feed:
        watch = None if resource.follows else self._watch
        sweep = None
        if resource.final and self.options.refresh:
            sweep = Sweep(self.options, self._clock, self._client.time, self._lists, resource)
        return Feed(self.options, self._clock, self._client, self._listing(resource), watch, sweep)

    def _listing(self, resource: Resource) -> Listing:
        """Return the list that has the changes of an object."""
        if resource.follows:

            async def added(row: Row) -> list[Change]:
                return [self._lists.marked(resource, added_row(row, resource, self.options.api_version))]

            return Listing(
                resource.name,
                f"/v1/{resource.path}",
                matches=lambda row: True,
                changes=added,
                params=resource.ways[0].params,
                expires=False,
            )
        return Listing(
            resource.name,
            "/v1/events",
            matches=lambda event: resource.matches(event["type"]) and _names_a_row(event, resource),
            changes=lambda event: self._changes(resource, event),
            params={"types[]": list(resource.types)},
            refetch=lambda late: self._refetch(resource, late),
        )

    async def _changes(self, resource: Resource, event: Row) -> list[Change]:
        """Return the changes of an object's rows that an event reports."""
        own = self.options.own_writes
        if resource.inside is None or event["type"] not in resource.inside.types:
            change = await self._whole(resource, change_of(event, resource, own))
            return [self._lists.marked(resource, change)]
        owner = event["data"]["object"]
        part = owner.get(resource.inside.field)
        if not part:  # in newer API versions, refunds are not in their charge
            return []
        rows = list(part["data"])
        way = next((way for way in resource.ways if way.under), None)
        if way is None or not part.get("has_more") or event["type"] in resource.inside.gone:
            return entries_of(event, resource, rows, own)
        # The event has the first ten entries only: these are all of them, as they are now.
        listed = await self._lists.all_of(resource, str(owner.get(way.under) or owner.get("id")))
        if not listed:  # their owner has been deleted since
            return entries_of(event, resource, rows, own)
        read = datetime.fromtimestamp(self._client.time(), UTC)
        version = self.options.api_version
        found = entries_of(event, resource, listed, own)
        return [
            replace(change, as_of=read, api_version=version) if change.after else change for change in found
        ]

    async def _whole(self, resource: Resource, change: Change) -> Change:
        """Return a change with the row read again if its lists are cut, or if the options ask for it: an event has ten entries of
        each list at most (airbytehq/airbyte #85087). The rest of a list alone would be of another moment than its first entries.
        """
        cut = cut_lists(change.after)
        if not cut and not (self.options.read_rows and change.after is not None):
            return change
        row = await self._lists.row(resource, change.primary_key, Priority.STREAM)
        # What the lists held before is unknown: the old row has them only if they are what changed.
        before = change.before and {name: value for name, value in change.before.items() if name not in cut}
        if row is None or row.after is None:
            return replace(
                change, before=before, metadata={**change.metadata, **({"cut": cut} if cut else {})}
            )
        if row.api_version != change.api_version:
            before = None  # differences between API versions are not changes
        return replace(
            change,
            before=before,
            before_from=change.before_from if before is not None else Before.NONE,
            after=row.after,
            as_of=row.timestamp,
            api_version=row.api_version,
            not_current=(),
        )

    async def _refetch(self, resource: Resource, late: Sequence[Row]) -> list[Change]:
        """Return the current rows of late events: newer events of the same rows may have been returned before."""
        keys: dict[str, Mapping[str, Any]] = {}
        for event in late:
            for change in await self._changes(resource, event):
                keys[str(change.primary_key)] = change.primary_key
        found = [await self._lists.row(resource, key, Priority.STREAM) for key in keys.values()]
        return [change for change in found if change is not None]

    async def read_rows(self, object: str, keys: Sequence[Mapping[str, Any]]) -> Sequence[Change | None]:
        """Return the current rows; see :class:`dimesh.spi.cdc.ReadsRows`."""
        return await self._lists.rows(_resource(object), keys)

    @property
    def feed_lag(self) -> float:
        """The time until what became visible late was read again."""
        return self.options.overlap + self.options.reread + self.options.poll

    async def rows_after(
        self, object: str, key: Mapping[str, Any] | None, limit: int
    ) -> Sequence[Change] | None:
        """Return rows in the order of the object's list; see :class:`dimesh.spi.cdc.SamplesRows`."""
        return None if object in V2 else await self._lists.after(_resource(object), key, limit)

    async def not_current(self, object: str) -> Mapping[str, str]:
        """Return the fields that events leave out; see :class:`dimesh.spi.cdc.LeavesOutFields`."""
        return dict.fromkeys(_resource(object).expand, "events leave it out")

    def relist_interval(self, object: str) -> float | None:
        """Return the interval at which all rows are listed again; see :class:`dimesh.spi.cdc.Relists`."""
        return self.options.refresh if self.options.refresh and _resource(object).relist else None

    async def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        """Yield the current rows; see the SPI."""
        resource = _resource(object)
        reader = self._thin if object in V2 else self._lists
        async for batch in reader.snapshot(resource, resume):
            yield batch

    async def acknowledge(self, object: str, position: bytes) -> None:
        """Do nothing: Stripe has nothing to clean up."""


def _names_a_row(event: Mapping[str, Any], resource: Resource) -> bool:
    """Return whether an event is about an object that exists. The invoice of ``invoice.upcoming`` does not yet: it has no id, or
    one that stands for none (airbytehq/airbyte #30752, #39412).
    """
    row = event["data"]["object"]
    if resource.single:
        return None not in resource.key_of(row).values()
    id = row.get("id")
    if id is None and resource.inside is not None:
        return event["type"] in resource.inside.types
    return isinstance(id, str) and bool(id) and not id.startswith("upcoming_in")


def _resource(name: str) -> Resource:
    found = RESOURCES.get(name) or V2.get(name)
    if found is not None:
        return found
    if name in REFUSED:
        raise SourceObjectError(f"the Stripe source cannot capture the object {name!r}: {REFUSED[name]}")
    raise SourceObjectError(
        f"the Stripe source cannot capture the object {name!r:.80}; it can capture: {', '.join([*RESOURCES, *V2])}"
    )
