"""The Stripe source: lists for snapshots, and for the stream the feed of events (``/v1/events``), or where there are none of
an object, its own list.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

import msgspec
from starlette.applications import Starlette

from dimesh.capabilities import Capabilities, Capability
from dimesh.clock import Clock
from dimesh.errors import (
    ConfigurationError,
    CredentialsError,
    SourceObjectError,
    SourceUnavailableError,
)
from dimesh.spi.budget import Urgency
from dimesh.spi.cdc import Change, ChangeBatch, CheckResult
from dimesh_stripe.changes import added_row, change_of, deleted_row, row_of
from dimesh_stripe.client import Client, CursorGoneError
from dimesh_stripe.descriptions import schema
from dimesh_stripe.endpoint import EndpointWatch
from dimesh_stripe.feed import Feed, Listing, Row
from dimesh_stripe.options import StripeOptions
from dimesh_stripe.resources import RESOURCES, Resource
from dimesh_stripe.v2 import V2, ThinFeed
from dimesh_stripe.webhooks import WebhookReceiver


class SnapshotPosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Where a snapshot stands."""

    after: str
    created: int
    """When that was made; 0: it does not say."""
    done: bool = False


_encode = msgspec.json.Encoder().encode
_decode_snapshot = msgspec.json.Decoder(SnapshotPosition).decode


class StripeSource:
    """See :class:`dimesh.spi.cdc.CDCSource`."""

    system = "stripe"
    capabilities = Capabilities(
        Capability.SNAPSHOT,
        Capability.STREAM,
        Capability.DELETES,
        Capability.BEFORE_IMAGE,
        Capability.DESCRIBED,
        notes={Capability.DELETES: "a cancelled subscription stays, and is an update"},
    )

    def __init__(self, options: StripeOptions, clock: Clock) -> None:
        self.options = options
        self._clock = clock
        self._client = Client(options, clock)
        self._thin = ThinFeed(options, clock, self._client)
        self._watch = EndpointWatch(options, clock, self._client)
        self._hints: dict[str, asyncio.Event] = {}

    async def open(self) -> None:
        """See the SPI."""
        await self._client.open()
        try:
            await self._client.get("/v1/events", {"limit": 1}, Urgency.CHECK, "events")
        except SourceObjectError as error:
            await self._client.close()
            raise CredentialsError(f"the key must be allowed to read events: {error}") from error
        except BaseException:
            await self._client.close()
            raise

    async def close(self) -> None:
        """See the SPI."""
        await self._client.close()

    async def check(self) -> CheckResult:
        """What the key may read; names the permission that is missing."""
        found: dict[str, str] = {}
        problems: list[str] = []
        try:
            await self._client.get("/v1/events", {"limit": 1}, Urgency.CHECK, "events")
        except (SourceObjectError, CredentialsError, SourceUnavailableError) as error:
            problems.append(f"{error}. Give the restricted key the permission to read Events")
        if problem := await self._watch.problem():
            problems.append(problem)
        for resource in (*RESOURCES.values(), *V2.values()):
            try:
                api = "v2" if resource.name in V2 else "v1"
                await self._client.get(
                    f"/{api}/{resource.path}", {"limit": 1, **resource.params}, Urgency.CHECK, resource.name
                )
                found[resource.name] = ""
            except (SourceObjectError, CredentialsError, SourceUnavailableError) as error:
                found[resource.name] = str(error)
        return CheckResult(not problems, found, problems)

    def account(self) -> dict[str, Any]:
        """Requests of this process, how many were refused, and how many a second and at once are tried at present."""
        budget = self._client.budget
        return {
            "requests": budget.spent,
            "requests_refused": budget.refused,
            "requests_a_second": round(budget.rate, 2),
            "requests_at_once": budget.concurrency,
        }

    async def schema(self, object: str) -> dict[str, Any] | None:
        """See :class:`dimesh.spi.cdc.Describes`. As of the API version that this release was made for: nothing is asked."""
        return schema(_resource(object).name)

    def hint(self, event_type: str) -> None:
        """A webhook said that there is something new of this type: look at once."""
        for name, hint in self._hints.items():
            if _resource(name).has(event_type):
                hint.set()

    def webhooks(self, hint: Callable[[str], object], path: str) -> Starlette:
        """See :class:`dimesh.spi.cdc.WebhookSource`."""
        if not self.options.webhook_secrets:
            raise ConfigurationError(
                "source 'stripe': webhooks need the option webhook_secrets, with the endpoint's signing secret (whsec_…)"
            )
        return WebhookReceiver(hint, self.options.webhook_secrets, clock=self._clock).app(path)

    # -- the feed ----------------------------------------------------------------------------------

    async def position(self, object: str) -> bytes:
        """See the SPI."""
        resource = _resource(object)
        if object in V2:
            return await self._thin.position(resource)
        return await self._feed(resource).position()

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        """See the SPI."""
        resource = _resource(object)
        hint = self._hints.setdefault(object, asyncio.Event())
        feed = (
            self._thin.stream(resource, position, hint)
            if object in V2
            else self._feed(resource).stream(position, hint)
        )
        async with aclosing(cast(Any, feed)) as batches:
            async for batch in batches:
                yield batch

    def _feed(self, resource: Resource) -> Feed:
        watch = None if resource.append_only else self._watch
        return Feed(self.options, self._clock, self._client, self._listing(resource), watch)

    def _listing(self, resource: Resource) -> Listing:
        """Where the changes of an object are listed."""
        if resource.append_only:
            return Listing(
                resource.name,
                f"/v1/{resource.path}",
                has=lambda row: True,
                change=lambda row: added_row(row, resource, self.options.api_version),
                params=resource.params,
                ages=False,
            )
        one = len(resource.types) == 1
        return Listing(
            resource.name,
            "/v1/events",
            has=lambda event: resource.has(event["type"]),
            change=lambda event: change_of(event, resource, self.options.own_writes),
            params={"type": resource.types[0]} if one else {"types[]": list(resource.types)},
            as_now=lambda late: self._as_now(resource, late),
        )

    async def _as_now(self, resource: Resource, late: Sequence[Row]) -> list[Change]:
        """The rows of events that came late, as they are now: newer events of them may have been handed out before."""
        found: list[Change] = []
        for id in dict.fromkeys(e["data"]["object"].get("id") for e in late):
            if id is not None:
                try:
                    row = await self._client.get(
                        f"/v1/{resource.path}/{id}", {}, Urgency.STREAM, resource.name
                    )
                except SourceObjectError:
                    continue  # not to be read one by one, or gone without a trace
                read = self._clock.time()
                if row.get("deleted"):
                    found.append(deleted_row(id, resource, read))
                else:
                    whole = await self._whole(resource, row)
                    found.append(row_of(whole, resource, read, self.options.api_version))
        return found

    # -- snapshots ---------------------------------------------------------------------------------

    async def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        """See the SPI. Newest first; what is made meanwhile is in the feed."""
        resource = _resource(object)
        if object in V2:
            async for batch in self._thin.snapshot(resource, resume):
                yield batch
            return
        at = _decode_snapshot(resume) if resume else None
        params: dict[str, Any] = {"limit": self.options.page, **resource.params}
        while at is None or not at.done:
            cursor: dict[str, Any] = {"starting_after": at.after} if at else {}
            try:
                found = await self._read(resource, f"/v1/{resource.path}", {**params, **cursor})
            except CursorGoneError:
                # The row was deleted in between: from its second on, some rows may come twice.
                assert at is not None
                params = {**params, "created[lte]": at.created} if at.created else params
                at = None
                continue
            read = self._clock.time()
            rows = [await self._whole(resource, row) for row in found["data"]]
            if not rows:
                return
            made = rows[-1].get("created") or rows[-1].get("date") or 0  # of an invoice item it is the date
            at = SnapshotPosition(rows[-1]["id"], made, not found["has_more"])
            yield ChangeBatch(
                [row_of(row, resource, read, self.options.api_version) for row in rows], _encode(at)
            )

    async def _whole(self, resource: Resource, row: Row) -> Row:
        """The row with its nested lists complete."""
        for name in resource.nested:
            part = row.get(name)
            if isinstance(part, dict) and part.get("has_more"):
                items = list(part["data"])
                more = True
                while more:
                    found = await self._read(
                        resource, part["url"], {"limit": 100, "starting_after": items[-1]["id"]}
                    )
                    items += found["data"]
                    more = found["has_more"]
                row = {**row, name: {**part, "data": items, "has_more": False}}
        return row

    async def _read(self, resource: Resource, path: str, params: Mapping[str, Any]) -> Row:
        return await self._client.get(path, params, Urgency.SNAPSHOT, resource.name)

    async def acknowledge(self, object: str, position: bytes) -> None:
        """Nothing to clean up."""


def _resource(name: str) -> Resource:
    found = RESOURCES.get(name) or V2.get(name)
    if found is None:
        raise SourceObjectError(
            f"Stripe has no object {name!r:.80} that can be captured; there are: {', '.join([*RESOURCES, *V2])}"
        )
    return found
