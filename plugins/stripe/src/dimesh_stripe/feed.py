"""Following a list of Stripe's that grows at its newest end: that of events, or of an object that is only ever added to.

Such a list is newest first, has times in whole seconds and no order beyond them, and shows some entries late. So a position
is the newest entry that was seen, with the ids of those shortly before it; new ones are asked for by ``ending_before`` that
one, and every now and then all of the last minutes are read again for those that came late. Every entry is handed out once
for a position, whatever its place was. Events are kept for 30 days, rows for ever.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from dimesh.clock import Clock
from dimesh.errors import SourcePositionLostError
from dimesh.spi.budget import Urgency
from dimesh.spi.cdc import Change, ChangeBatch
from dimesh_stripe.client import Client, CursorGoneError
from dimesh_stripe.endpoint import EndpointWatch, Outage
from dimesh_stripe.options import RETENTION, StripeOptions

Row = dict[str, Any]
_MOST_PAGES: Final = 100_000
_QUIET: Final = 86_400.0
"""Seconds after which a position on which nothing happened is moved on."""
_SKEW: Final = 3_600
"""By how much our clock may be ahead of Stripe's."""


class FeedPosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Where a stream stands."""

    newest: str | None
    """Id of an entry; None: there was none."""
    created: int
    """Of that entry, or when the position was taken."""
    recent: dict[str, int]
    """Entries within the overlap before it that were handed out, with their times."""
    disabled: bool = False
    """It was said that the webhook endpoint is disabled."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(FeedPosition).decode


@dataclass(frozen=True, slots=True)
class Listing:
    """Where a feed is listed, and what its entries mean."""

    name: str
    """Of the object, for errors."""
    path: str
    has: Callable[[Row], bool]
    """Whether an entry is of this object."""
    change: Callable[[Row], Change]
    """What an entry tells of."""
    params: Mapping[str, Any] = field(default_factory=dict)
    as_now: Callable[[Sequence[Row]], Awaitable[list[Change]]] | None = None
    """The rows of entries that came late, as they are now; None: rows stay as they were."""
    ages: bool = True
    """Entries are forgotten after Stripe's 30 days."""


class Feed:
    """Follows one list.

    Args:
        watch: of the webhook endpoint; None: webhooks do not tell of what is in this list.
    """

    def __init__(
        self,
        options: StripeOptions,
        clock: Clock,
        client: Client,
        listing: Listing,
        watch: EndpointWatch | None = None,
    ) -> None:
        self._watch = watch
        self._options = options
        self._clock = clock
        self._client = client
        self._listing = listing

    async def position(self) -> bytes:
        """The position of now."""
        now = int(self._clock.time())
        newest: Row | None = None
        recent: dict[str, int] = {}
        async for page in self._pages({"created[gte]": now - int(self._options.overlap) - 1}):
            for entry in page:
                newest = newest or entry
                recent[entry["id"]] = entry["created"]
        if newest is None:
            found = await self._list({"limit": 1})
            newest = next((entry for entry in found["data"] if self._listing.has(entry)), None)
        if newest is None:
            return _encode(FeedPosition(None, now - _SKEW, {}))
        return _encode(FeedPosition(newest["id"], newest["created"], recent))

    async def stream(self, position: bytes, hint: asyncio.Event) -> AsyncIterator[ChangeBatch]:
        """Changes after a position; looks at once when ``hint`` is set."""
        listing = self._listing
        try:
            at = _decode(position)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise SourcePositionLostError(
                f"the position of {listing.name} is none of the Stripe source's"
            ) from error
        reread = 0.0
        looked: float | None = (
            None  # when the last look began: what is older, and was not there, was held back until then
        )
        while True:
            hint.clear()
            began = self._clock.time()
            outage, known = await self._outage()
            if outage is not None and not at.disabled:
                reread = 0.0  # what it did not wake us for is read before it is said
            if listing.ages and at.created < began - RETENTION + self._options.guard:
                await self._check_age(at)
            while at.newest is not None:
                page, more = await self._newer(at.newest)
                entries = [e for e in page if listing.has(e) and e["id"] not in at.recent]
                if entries:
                    at = self._moved(at, entries)
                    yield ChangeBatch(self._told(entries, looked), _encode(at))
                if not more:
                    break
                if not entries:
                    newest = page[-1]
                    at = replace(at, newest=newest["id"], created=max(at.created, newest["created"]))
            # After that: only a position that the service still knows says that nothing has aged out in between.
            if self._clock.monotonic() >= reread or at.newest is None:
                reread = self._clock.monotonic() + self._options.reread
                entries, late = await self._recent(at)
                if entries:
                    changes = self._told(entries, looked)
                    if listing.as_now is not None:
                        changes += await listing.as_now(late)
                    at = self._moved(at, entries)
                    yield ChangeBatch(changes, _encode(at))
                elif listing.ages and at.created < began - _QUIET:
                    # Nothing happened up to this look: else the position of a quiet object would age out.
                    at = replace(at, newest=None, created=int(began) - _SKEW, recent={})
                    yield ChangeBatch((), _encode(at))
            if known and (outage is not None) is not at.disabled:
                at = replace(at, disabled=outage is not None)
                yield ChangeBatch([outage.gap(listing.name)] if outage is not None else (), _encode(at))
            looked = began
            wait = self._options.poll
            if self._watch is not None:
                wait = min(wait, self._watch.seconds)
            try:
                async with asyncio.timeout(wait):
                    await hint.wait()
            except TimeoutError:
                pass

    def _told(self, entries: Sequence[Row], looked: float | None) -> list[Change]:
        """What entries tell, and since when they could be read: Stripe does not say it, our looks do."""
        seen = datetime.fromtimestamp(looked, UTC) if looked is not None else None
        found: list[Change] = []
        for entry in entries:
            change = self._listing.change(entry)
            visible = change.timestamp if seen is None else max(change.timestamp, seen)
            found.append(dataclasses.replace(change, visible=visible))
        return found

    async def _outage(self) -> tuple[Outage | None, bool]:
        """Of the webhook endpoint, and whether that is known."""
        if self._watch is None:
            return None, True
        await self._watch.look()
        return self._watch.outage, self._watch.known

    async def _check_age(self, at: FeedPosition) -> None:
        """An old position is good as long as nothing can have aged out since: its event is there, and is the newest."""
        if at.newest is not None:
            found = await self._list({"limit": 1})
            newest = next((entry for entry in found["data"] if self._listing.has(entry)), None)
            if newest is not None and newest["id"] == at.newest:
                return
        raise SourcePositionLostError(
            f"the position of {self._listing.name} is from {int((self._clock.time() - at.created) // 86_400)} days ago, "
            "and Stripe keeps events for 30 days: changes may be missing"
        )

    async def _newer(self, newest: str) -> tuple[list[Row], bool]:
        """The next page after an entry, oldest first, and whether there is more."""
        try:
            found = await self._list({"ending_before": newest, "limit": self._options.page})
        except CursorGoneError as error:
            raise SourcePositionLostError(
                f"Stripe does not know the position of {self._listing.name}: {error}"
            ) from error
        return found["data"][::-1], found["has_more"]

    async def _recent(self, at: FeedPosition) -> tuple[list[Row], list[Row]]:
        """Entries of the overlap that were not handed out, oldest first; and those of them that came late, since one that
        is newer was handed out before.
        """
        since = at.created - int(self._options.overlap) - 1
        found: list[Row] = []
        late: list[Row] = []
        known = False
        async for page in self._pages({"created[gte]": since}):
            for entry in page:
                if entry["id"] in at.recent or entry["id"] == at.newest:
                    known = True
                else:
                    found.append(entry)
                    if known:
                        late.append(entry)
        # Within a second the list's own order is the best there is.
        found.reverse()
        return sorted(found, key=lambda entry: entry["created"]), late

    def _moved(self, at: FeedPosition, entries: Sequence[Row]) -> FeedPosition:
        newest, created = at.newest, at.created
        if newest is None or entries[-1]["created"] >= created:
            newest, created = entries[-1]["id"], max(entries[-1]["created"], created)
        lowest = created - int(self._options.overlap) - 1
        recent = {id: when for id, when in at.recent.items() if when >= lowest}
        recent |= {entry["id"]: entry["created"] for entry in entries if entry["created"] >= lowest}
        return replace(at, newest=newest, created=created, recent=recent)

    async def _pages(self, params: Mapping[str, Any]) -> AsyncIterator[list[Row]]:
        """Newest first."""
        after: str | None = None
        for _ in range(_MOST_PAGES):
            cursor = {"starting_after": after} if after else {}
            found = await self._list({**params, **cursor, "limit": self._options.page})
            yield [entry for entry in found["data"] if self._listing.has(entry)]
            if not found["has_more"]:
                return
            after = found["data"][-1]["id"]

    async def _list(self, params: Mapping[str, Any]) -> Row:
        listing = self._listing
        return await self._client.get(
            listing.path, {**listing.params, **params}, Urgency.STREAM, listing.name
        )
