"""Objects of Stripe's v2 API. Their events are thin: an event names an object, whose current state must be fetched.

The list of events (``/v2/core/events``) takes times as text, names the address of the next page, and promises no order.
So each poll reads everything since the position, less the overlap, and sorts it. Stripe does not document how long it
keeps these events; this source assumes 30 days, as for the others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from dimesh.clock import Clock
from dimesh.contact import report_delivered
from dimesh.errors import SourcePositionLostError
from dimesh.sourcekit.budget import Priority
from dimesh.sourcekit.positions import PositionCodec
from dimesh.sourcekit.wakeups import WakeUp
from dimesh.spi.cdc import Change, ChangeBatch, Operation
from dimesh_stripe.changes import row_of
from dimesh_stripe.client import Client, MissingError
from dimesh_stripe.options import RETENTION, StripeOptions
from dimesh_stripe.resource import Resource, Way


def _thin(name: str, path: str) -> Resource:
    return Resource(name, (Way(path),), f"{path}/{{id}}", family=f"{name}.")


V2: Final[Mapping[str, Resource]] = {
    resource.name: resource
    for resource in (
        _thin("v2.core.account", "core/accounts"),
        _thin("v2.core.event_destination", "core/event_destinations"),
    )
}
"""The v2 objects that can be listed, by the type that events call them."""


class ThinPosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The position of a stream of thin events."""

    since: str
    """The time of the newest event that was read, or when the position was taken; RFC 3339."""
    recent: list[str] = []
    """The events within the overlap before ``since`` that were returned."""


class PagePosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The position of a snapshot."""

    path: str | None
    """The path of the next page; None: the snapshot is complete."""


POSITIONS: Final = PositionCodec(ThinPosition, "Stripe")
PAGES: Final = PositionCodec(PagePosition, "Stripe")


class ThinFeed:
    """The part of the Stripe source that reads v2 objects."""

    def __init__(self, options: StripeOptions, clock: Clock, client: Client) -> None:
        self._clock = clock
        self._options = options
        self._client = client

    async def position(self, resource: Resource) -> bytes:
        """Return the current position."""
        now = self._now()
        events = await self._events(resource, now - timedelta(seconds=self._options.overlap))
        return POSITIONS.encode(ThinPosition(_text(now), [event["id"] for event in events]))

    async def stream(
        self, resource: Resource, position: bytes, wake_up: WakeUp
    ) -> AsyncIterator[ChangeBatch]:
        """Yield the changes after a position."""
        at = POSITIONS.decode(position, resource.name)
        try:
            since = datetime.fromisoformat(at.since)
        except ValueError as error:
            raise SourcePositionLostError(
                f"the position of {resource.name} has no valid time: all rows must be read again"
            ) from error
        while True:
            wake_up.clear()
            began, polling = self._now(), self._clock.time()
            if (began - since).total_seconds() > RETENTION - self._options.guard:
                raise SourcePositionLostError(
                    f"the position of {resource.name} is {(began - since).days} days old, and Stripe keeps events for 30 days: "
                    "changes may be missing"
                )
            lowest = since - timedelta(seconds=self._options.overlap)
            events = await self._events(resource, lowest)
            fresh = [event for event in events if event["id"] not in at.recent]
            if fresh:
                since = max(since, *(datetime.fromisoformat(event["created"]) for event in fresh))
                lowest = since - timedelta(seconds=self._options.overlap)
                recent = [e["id"] for e in events if datetime.fromisoformat(e["created"]) >= lowest]
                at = ThinPosition(_text(since), recent)
                yield ChangeBatch(
                    [await self._change(resource, event) for event in fresh], POSITIONS.encode(at)
                )
            elif began - since > timedelta(days=1):
                # Nothing happened up to this poll. Without moving, the position of a quiet object would age out.
                since = began - timedelta(hours=1)
                at = ThinPosition(_text(since), [])
                yield ChangeBatch((), POSITIONS.encode(at))
            report_delivered(polling)
            await wake_up.wait(self._options.poll)

    async def snapshot(self, resource: Resource, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        """Yield the current rows."""
        first = f"/v2/{resource.path}?limit={self._options.page}"
        path = PAGES.decode(resume, resource.name).path if resume else first
        while path is not None:
            found = await self._client.get(path, {}, Priority.SNAPSHOT, resource.name)
            read = self._client.time()
            following = found.get("next_page_url")
            path = self._client.path(str(following)) if following else None
            rows = [row_of(row, resource, read, self._options.api_version) for row in found["data"]]
            yield ChangeBatch(rows, PAGES.encode(PagePosition(path)))

    async def _events(self, resource: Resource, since: datetime) -> list[dict[str, Any]]:
        """Return the events of a resource after a time, oldest first."""
        found: list[dict[str, Any]] = []
        path, params = "/v2/core/events", {"created[gt]": _text(since), "limit": str(self._options.page)}
        while path:
            page = await self._client.get(path, params, Priority.STREAM, resource.name)
            found += [e for e in page["data"] if (e.get("related_object") or {}).get("type") == resource.name]
            path, params = str(page.get("next_page_url") or ""), {}
        # The newest came first; within a millisecond, the order of the list is the best one available.
        found.reverse()
        found.sort(key=lambda event: datetime.fromisoformat(event["created"]))
        return found

    async def _change(self, resource: Resource, event: Mapping[str, Any]) -> Change:
        related = event["related_object"]
        operation, after = resource.operation(event["type"]), None
        if operation is not Operation.DELETE:
            try:
                after = await self._client.get(
                    str(related["url"]),
                    {},
                    Priority.STREAM,
                    resource.name,
                    {"stripe-request-trigger": f"event={event['id']}"},
                )
            except MissingError:
                operation = (
                    Operation.DELETE
                )  # the object has been deleted since; a refusal, such as a 403, does not say that
        request = (event.get("reason") or {}).get("request") or {}
        key = request.get("idempotency_key")
        prefix = self._options.own_writes
        return Change(
            identity=event["id"],
            operation=operation,
            object=resource.name,
            primary_key={"id": related["id"]},
            before=None,
            after=after,
            timestamp=datetime.fromisoformat(event["created"]),
            as_of=self._now() if after is not None else None,
            sequence=event["created"],
            own=bool(prefix and key and key.startswith(prefix)),
            transaction=request.get("id"),
            api_version=self._options.api_version,
            metadata={"event_type": event["type"], "livemode": event.get("livemode"), "idempotency_key": key},
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._client.time(), UTC)


def _text(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
