"""The Stripe source: the feed of events, and lists for snapshots.

The feed (``/v1/events``) is newest first, keeps 30 days, has times in whole seconds and no order beyond them, and shows
some events late. So a position is the newest event that was seen, with the ids of those shortly before it; new events are
asked for by ``ending_before`` that one, and every now and then all of the last minutes are read again for those that came
late. Every event is handed out once for a position, whatever its place was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from starlette.applications import Starlette

from dimesh.capabilities import Capabilities, Capability
from dimesh.clock import Clock
from dimesh.errors import (
    ConfigurationError,
    CredentialsError,
    SourceObjectError,
    SourcePositionLostError,
    SourceUnavailableError,
)
from dimesh.spi.budget import Urgency
from dimesh.spi.cdc import Change, ChangeBatch, CheckResult
from dimesh_stripe.changes import change_of, deleted_row, row_of
from dimesh_stripe.client import Client, CursorGoneError
from dimesh_stripe.options import RETENTION, StripeOptions
from dimesh_stripe.resources import RESOURCES, Resource
from dimesh_stripe.v2 import V2, ThinFeed
from dimesh_stripe.webhooks import WebhookReceiver

Row = dict[str, Any]
_MOST_PAGES: Final = 100_000
_QUIET: Final = 86_400.0
"""Seconds after which a position on which nothing happened is moved on."""
_SKEW: Final = 3_600
"""By how much our clock may be ahead of Stripe's."""


class FeedPosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Where a stream stands."""

    newest: str | None
    """Event id; None: there was none."""
    created: int
    """Of that event, or when the position was taken."""
    recent: dict[str, int]
    """Events within the overlap before it that were handed out, with their times."""


class SnapshotPosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Where a snapshot stands."""

    after: str
    created: int
    done: bool = False


_encode = msgspec.json.Encoder().encode
_decode_feed = msgspec.json.Decoder(FeedPosition).decode
_decode_snapshot = msgspec.json.Decoder(SnapshotPosition).decode


class StripeSource:
    """See :class:`dimesh.spi.cdc.CDCSource`."""

    system = "stripe"
    capabilities = Capabilities(
        Capability.SNAPSHOT,
        Capability.STREAM,
        Capability.DELETES,
        Capability.BEFORE_IMAGE,
        notes={Capability.DELETES: "a cancelled subscription stays, and is an update"},
    )

    def __init__(self, options: StripeOptions, clock: Clock) -> None:
        self.options = options
        self._clock = clock
        self._client = Client(options, clock)
        self._thin = ThinFeed(options, clock, self._client)
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
        """Requests of this process, how many were refused, and how many a second are tried at present."""
        budget = self._client.budget
        return {
            "requests": budget.spent,
            "requests_refused": budget.refused,
            "requests_a_second": round(budget.rate, 2),
        }

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
        now = int(self._clock.time())
        newest: Row | None = None
        recent: dict[str, int] = {}
        async for page in self._pages(resource, {"created[gte]": now - int(self.options.overlap) - 1}):
            for event in page:
                newest = newest or event
                recent[event["id"]] = event["created"]
        if newest is None:
            found = await self._list(resource, {"limit": 1})
            newest = next((e for e in found["data"] if resource.has(e["type"])), None)
        return _encode(
            FeedPosition(newest["id"] if newest else None, newest["created"] if newest else now, recent)
        )

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        """See the SPI."""
        resource = _resource(object)
        if object in V2:
            hint = self._hints.setdefault(object, asyncio.Event())
            async for batch in self._thin.stream(resource, position, hint):
                yield batch
        try:
            at = _decode_feed(position)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise SourcePositionLostError(
                f"the position of {object} is none of the Stripe source's"
            ) from error
        hint = self._hints.setdefault(object, asyncio.Event())
        reread = 0.0
        while True:
            hint.clear()
            began = self._clock.time()
            if at.created < began - RETENTION + self.options.guard:
                await self._check_age(resource, at)
            while at.newest is not None:
                page = await self._newer(resource, at.newest)
                events = [e for e in page[0] if resource.has(e["type"]) and e["id"] not in at.recent]
                if events:
                    at = self._moved(at, events)
                    yield ChangeBatch(
                        [change_of(event, resource, self.options.own_writes) for event in events], _encode(at)
                    )
                if not page[1]:
                    break
                if not events:
                    at = FeedPosition(page[0][-1]["id"], max(at.created, page[0][-1]["created"]), at.recent)
            # After that: only a position that the service still knows says that nothing has aged out in between.
            if self._clock.monotonic() >= reread or at.newest is None:
                reread = self._clock.monotonic() + self.options.reread
                events, late = await self._recent(resource, at)
                if events:
                    changes = [change_of(event, resource, self.options.own_writes) for event in events]
                    changes += await self._as_now(resource, late)
                    at = self._moved(at, events)
                    yield ChangeBatch(changes, _encode(at))
                elif at.created < began - _QUIET:
                    # Nothing happened up to this look: else the position of a quiet object would age out.
                    at = FeedPosition(None, int(began) - _SKEW, {})
                    yield ChangeBatch((), _encode(at))
            try:
                async with asyncio.timeout(self.options.poll):
                    await hint.wait()
            except TimeoutError:
                pass

    async def _check_age(self, resource: Resource, at: FeedPosition) -> None:
        """An old position is good as long as nothing can have aged out since: its event is there, and is the newest."""
        if at.newest is not None:
            found = await self._list(resource, {"limit": 1})
            newest = next((e for e in found["data"] if resource.has(e["type"])), None)
            if newest is not None and newest["id"] == at.newest:
                return
        raise SourcePositionLostError(
            f"the position of {resource.name} is from {int((self._clock.time() - at.created) // 86_400)} days ago, and "
            "Stripe keeps events for 30 days: changes may be missing"
        )

    async def _newer(self, resource: Resource, newest: str) -> tuple[list[Row], bool]:
        """The next page after an event, oldest first, and whether there is more."""
        try:
            found = await self._list(resource, {"ending_before": newest, "limit": self.options.page})
        except CursorGoneError as error:
            raise SourcePositionLostError(
                f"Stripe does not know the position of {resource.name}: {error}"
            ) from error
        return found["data"][::-1], found["has_more"]

    async def _recent(self, resource: Resource, at: FeedPosition) -> tuple[list[Row], list[Row]]:
        """Events of the overlap that were not handed out, oldest first; and those of them that came late, since one that is
        newer was handed out before.
        """
        since = at.created - int(self.options.overlap) - 1
        found: list[Row] = []
        late: list[Row] = []
        known = False
        async for page in self._pages(resource, {"created[gte]": since}):
            for event in page:
                if event["id"] in at.recent or event["id"] == at.newest:
                    known = True
                else:
                    found.append(event)
                    if known:
                        late.append(event)
        # Within a second the list's own order is the best there is.
        found.reverse()
        return sorted(found, key=lambda event: event["created"]), late

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

    def _moved(self, at: FeedPosition, events: Sequence[Row]) -> FeedPosition:
        newest, created = at.newest, at.created
        if newest is None or events[-1]["created"] >= created:
            newest, created = events[-1]["id"], max(events[-1]["created"], created)
        lowest = created - int(self.options.overlap) - 1
        recent = {id: when for id, when in at.recent.items() if when >= lowest}
        recent |= {event["id"]: event["created"] for event in events if event["created"] >= lowest}
        return FeedPosition(newest, created, recent)

    async def _pages(self, resource: Resource, params: Mapping[str, Any]) -> AsyncIterator[list[Row]]:
        """Newest first."""
        after: str | None = None
        for _ in range(_MOST_PAGES):
            cursor = {"starting_after": after} if after else {}
            found = await self._list(resource, {**params, **cursor, "limit": self.options.page})
            yield [event for event in found["data"] if resource.has(event["type"])]
            if not found["has_more"] or not found["data"]:
                return
            after = found["data"][-1]["id"]

    async def _list(self, resource: Resource, params: Mapping[str, Any]) -> Row:
        if len(resource.types) == 1:
            asked: dict[str, Any] = {"type": resource.types[0]}
        else:
            asked = {"types[]": list(resource.types)}
        return await self._client.get("/v1/events", {**asked, **params}, Urgency.STREAM, resource.name)

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
                params = {**params, "created[lte]": at.created}
                at = None
                continue
            read = self._clock.time()
            rows = [await self._whole(resource, row) for row in found["data"]]
            if not rows:
                return
            at = SnapshotPosition(rows[-1]["id"], rows[-1].get("created", 0), not found["has_more"])
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
                    more = found["has_more"] and bool(found["data"])
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
