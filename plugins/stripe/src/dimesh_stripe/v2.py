"""Objects of Stripe's v2 API. Their events are thin: they name an object, and what it is like now is asked for.

The list of events (``/v2/core/events``) takes times as text, hands out pages by the address of the next one, and says
nothing of its order; so each look reads everything since the position, less the overlap, and sorts it. How long Stripe
keeps these events is not documented: as long as the others is taken for granted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from dimesh.clock import Clock
from dimesh.errors import SourceObjectError, SourcePositionLostError
from dimesh.spi.budget import Urgency
from dimesh.spi.cdc import Change, ChangeBatch, Operation
from dimesh_stripe.changes import row_of
from dimesh_stripe.client import Client
from dimesh_stripe.options import RETENTION, StripeOptions
from dimesh_stripe.resources import Resource

V2: Final[Mapping[str, Resource]] = {
    resource.name: resource
    for resource in (
        Resource("v2.core.account", "core/accounts", ("v2.core.account.*",)),
        Resource("v2.core.event_destination", "core/event_destinations", ("v2.core.event_destination.*",)),
    )
}
"""Those that can be listed, by the type that events call them."""

_END: Final = "end"


class ThinPosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Where a stream of thin events stands."""

    since: str
    """RFC 3339: the newest event that was seen, or when the position was taken."""
    recent: list[str] = []
    """Events within the overlap before it that were handed out."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ThinPosition).decode


class ThinFeed:
    """The part of the Stripe source that reads v2 objects."""

    def __init__(self, options: StripeOptions, clock: Clock, client: Client) -> None:
        self._options = options
        self._clock = clock
        self._client = client

    async def position(self, resource: Resource) -> bytes:
        """The position of now."""
        now = self._now()
        events = await self._events(resource, now - timedelta(seconds=self._options.overlap))
        return _encode(ThinPosition(_text(now), [event["id"] for event in events]))

    async def stream(
        self, resource: Resource, position: bytes, hint: asyncio.Event
    ) -> AsyncIterator[ChangeBatch]:
        """Changes after a position."""
        try:
            at = _decode(position)
            since = datetime.fromisoformat(at.since)
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
            raise SourcePositionLostError(
                f"the position of {resource.name} is none of the Stripe source's"
            ) from error
        while True:
            hint.clear()
            began = self._now()
            if (began - since).total_seconds() > RETENTION - self._options.guard:
                raise SourcePositionLostError(
                    f"the position of {resource.name} is from {(began - since).days} days ago, and Stripe keeps events for 30 "
                    "days: changes may be missing"
                )
            lowest = since - timedelta(seconds=self._options.overlap)
            events = await self._events(resource, lowest)
            fresh = [event for event in events if event["id"] not in at.recent]
            if fresh:
                since = max(since, *(datetime.fromisoformat(event["created"]) for event in fresh))
                lowest = since - timedelta(seconds=self._options.overlap)
                recent = [e["id"] for e in events if datetime.fromisoformat(e["created"]) >= lowest]
                at = ThinPosition(_text(since), recent)
                yield ChangeBatch([await self._change(resource, event) for event in fresh], _encode(at))
            elif began - since > timedelta(days=1):
                # Nothing happened up to this look: else the position of a quiet object would age out.
                since = began - timedelta(hours=1)
                at = ThinPosition(_text(since), [])
                yield ChangeBatch((), _encode(at))
            try:
                async with asyncio.timeout(self._options.poll):
                    await hint.wait()
            except TimeoutError:
                pass

    async def snapshot(self, resource: Resource, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        """The rows of now; a position is the address of the next page."""
        path = resume.decode() if resume else f"/v2/{resource.path}?limit={self._options.page}"
        while path != _END:
            found = await self._client.get(path, {}, Urgency.SNAPSHOT, resource.name)
            read = self._clock.time()
            path = str(found.get("next_page_url") or _END)
            rows = [row_of(row, resource, read, self._options.api_version) for row in found["data"]]
            yield ChangeBatch(rows, path.encode())

    async def _events(self, resource: Resource, since: datetime) -> list[dict[str, Any]]:
        """Those of a resource that were made after a time, oldest first."""
        found: list[dict[str, Any]] = []
        path, params = "/v2/core/events", {"created[gt]": _text(since), "limit": str(self._options.page)}
        while path:
            page = await self._client.get(path, params, Urgency.STREAM, resource.name)
            found += [e for e in page["data"] if (e.get("related_object") or {}).get("type") == resource.name]
            path, params = str(page.get("next_page_url") or ""), {}
        found.reverse()  # the newest came first; within a millisecond the list's own order is the best there is
        found.sort(key=lambda event: datetime.fromisoformat(event["created"]))
        return found

    async def _change(self, resource: Resource, event: Mapping[str, Any]) -> Change:
        related = event["related_object"]
        operation, after = resource.operation(event["type"]), None
        if operation is not Operation.DELETE:
            try:
                after = await self._client.get(
                    related["url"],
                    {},
                    Urgency.STREAM,
                    resource.name,
                    {"stripe-request-trigger": f"event={event['id']}"},
                )
            except SourceObjectError:
                operation = Operation.DELETE  # it is gone since
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
        return datetime.fromtimestamp(self._clock.time(), UTC)


def _text(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
