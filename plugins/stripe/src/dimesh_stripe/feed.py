"""Following a Stripe list that grows at its newest end: the list of events, or of an object to which rows are only ever added.

Such a list is newest first, has times in whole seconds and no order beyond them, and shows some entries late. So a
position is the newest entry that was read, with the ids of the entries shortly before it. New entries are requested
with ``ending_before``, and from time to time all entries of the last minutes are read again, to find those that became
visible late. Each entry is returned once for a position, wherever it was in the list. Stripe keeps events for 30 days
and rows for ever.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from dimesh.clock import Clock
from dimesh.contact import report_delivered
from dimesh.errors import SourcePositionLostError
from dimesh.sourcekit.budget import Priority
from dimesh.sourcekit.positions import PositionCodec
from dimesh.sourcekit.wakeups import WakeUp
from dimesh.spi.cdc import Change, ChangeBatch
from dimesh_stripe.changes import Row
from dimesh_stripe.client import Client, CursorGoneError
from dimesh_stripe.endpoint import EndpointWatch, Outage
from dimesh_stripe.options import RETENTION, StripeOptions
from dimesh_stripe.sweep import Sweep

_MAX_PAGES: Final = 100_000
_QUIET: Final = 86_400.0
"""The number of seconds after which a position is moved forward although nothing happened."""
_SLICE: Final = 1.0
"""The number of seconds for which a sweep works between two polls of the feed."""
_SKEW: Final = 3_600
"""The number of seconds that a position without an entry lies before Stripe's time, so that nothing is missed."""


class FeedPosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The position of a stream."""

    newest: str | None
    """The id of an entry; None: the list was empty."""
    created: int
    """The time of that entry, or when the position was taken."""
    recent: dict[str, int]
    """The entries within the overlap before ``newest`` that were returned, with their times."""
    disabled: bool = False
    """Whether a gap event has reported that the webhook endpoint is disabled."""
    swept: int = 0
    """When the last complete sweep for silent changes began; 0: never."""
    open: int = 0
    """When the oldest row was created that was not final in that sweep; 0: unknown."""


POSITIONS: Final = PositionCodec(FeedPosition, "Stripe")


@dataclass(frozen=True, slots=True)
class Listing:
    """The list that a feed reads, and how its entries become changes."""

    name: str
    """The name of the object, for errors."""
    path: str
    matches: Callable[[Row], bool]
    """Returns whether an entry belongs to this object."""
    changes: Callable[[Row], Awaitable[list[Change]]]
    """Returns the changes that an entry describes, each with its whole row."""
    params: Mapping[str, Any] = field(default_factory=dict)
    refetch: Callable[[Sequence[Row]], Awaitable[list[Change]]] | None = None
    """Fetches the current rows of late entries; None: rows never change."""
    expires: bool = True
    """Whether Stripe forgets the entries after 30 days."""


class Feed:
    """Follows one list.

    Args:
        watch: the watch of the webhook endpoint; None: webhooks do not report entries of this list.
        sweep: finds changes that have no entry; None: there are none.
    """

    def __init__(
        self,
        options: StripeOptions,
        clock: Clock,
        client: Client,
        listing: Listing,
        watch: EndpointWatch | None = None,
        sweep: Sweep | None = None,
    ) -> None:
        self._watch = watch
        self._sweep = sweep
        self._options = options
        self._clock = clock
        self._client = client
        self._listing = listing

    async def position(self) -> bytes:
        """Return the current position: the newest entry, and the ids of those in the overlap before it."""
        newest = await self._newest()
        if newest is None:
            now = int(self._client.time())
            return POSITIONS.encode(FeedPosition(None, now - _SKEW, {}, swept=now))
        since = newest["created"] - int(self._options.overlap) - 1
        recent: dict[str, int] = {}
        async for page in self._pages({"created[gte]": since}):
            for entry in page:
                if not recent:
                    newest = entry  # there may be a newer one by now
                recent[entry["id"]] = entry["created"]
        # The rows are about to be listed: a sweep is not due before the interval is over.
        swept = int(self._client.time())
        return POSITIONS.encode(FeedPosition(newest["id"], newest["created"], recent, swept=swept))

    async def stream(self, position: bytes, wake_up: WakeUp) -> AsyncIterator[ChangeBatch]:
        """Yield the changes after a position; polls, and reads at once when ``wake_up`` is set."""
        listing = self._listing
        at = POSITIONS.decode(position, listing.name)
        reread = 0.0
        # When the last poll began: an older entry that it did not find was held back by Stripe until then.
        polled: float | None = None
        while True:
            wake_up.clear()
            began, polling = self._client.time(), self._clock.time()
            outage, known = await self._outage()
            if outage is not None and not at.disabled:
                reread = 0.0  # entries that it did not wake us for are read before the outage is reported
            if listing.expires and at.created < began - RETENTION + self._options.guard:
                await self._check_age(at)
            while at.newest is not None:
                page, more = await self._newer(at.newest)
                entries = [e for e in page if listing.matches(e) and e["id"] not in at.recent]
                if entries:
                    at = self._moved(at, entries)
                    yield ChangeBatch(await self._changes_from(entries, polled), POSITIONS.encode(at))
                if not more:
                    break
                if not entries:
                    newest = page[-1]
                    at = replace(at, newest=newest["id"], created=max(at.created, newest["created"]))
            # Only after that: if Stripe still knows the position, nothing has aged out in between.
            if self._clock.monotonic() >= reread or at.newest is None:
                reread = self._clock.monotonic() + self._options.reread
                entries, late = await self._recent(at)
                if entries:
                    changes = await self._changes_from(entries, polled)
                    if listing.refetch is not None:
                        changes += await listing.refetch(late)
                    at = self._moved(at, entries)
                    yield ChangeBatch(changes, POSITIONS.encode(at))
                elif listing.expires and at.created < began - _QUIET:
                    # Nothing happened up to this poll. Without moving, the position of a quiet object would age out.
                    at = replace(at, newest=None, created=int(began) - _SKEW, recent={})
                    yield ChangeBatch((), POSITIONS.encode(at))
            if known and (outage is not None) is not at.disabled:
                at = replace(at, disabled=outage is not None)
                gaps = [outage.gap(listing.name)] if outage is not None else ()
                yield ChangeBatch(gaps, POSITIONS.encode(at))
            polled = began
            report_delivered(polling)
            wait = self._options.poll
            if self._watch is not None:
                wait = min(wait, self._watch.seconds)
            if self._sweep is not None:
                async for changes, done in self._sweep.work(at.swept, at.open, min(wait, _SLICE)):
                    if done is not None:
                        at = replace(at, swept=done.began, open=done.open)
                    yield ChangeBatch(changes, POSITIONS.encode(at))
                wait = min(wait, self._sweep.seconds(at.swept))
            await wake_up.wait(wait)

    async def _changes_from(self, entries: Sequence[Row], polled: float | None) -> list[Change]:
        """Return the changes of entries, with the time at which each became visible: only our polls show that time."""
        seen = datetime.fromtimestamp(polled, UTC) if polled is not None else None
        found: list[Change] = []
        for entry in entries:
            for change in await self._listing.changes(entry):
                visible = change.timestamp if seen is None else max(change.timestamp, seen)
                found.append(dataclasses.replace(change, visible=visible))
        return found

    async def _outage(self) -> tuple[Outage | None, bool]:
        """Return the outage of the webhook endpoint, and whether the state of the endpoint is known."""
        if self._watch is None:
            return None, True
        await self._watch.refresh()
        return self._watch.outage, self._watch.known

    async def _check_age(self, at: FeedPosition) -> None:
        """Raise unless nothing can have aged out since an old position: its entry exists, and is the newest."""
        if at.newest is not None:
            newest = await self._newest()
            if newest is not None and newest["id"] == at.newest:
                return
        raise SourcePositionLostError(
            f"the position of {self._listing.name} is {int((self._client.time() - at.created) // 86_400)} days old, "
            "and Stripe keeps events for 30 days: changes may be missing"
        )

    async def _newest(self) -> Row | None:
        """Return the newest entry of this object; None if there is none among the newest of the list."""
        found = await self._list({"limit": 1})
        if not found["data"] or self._listing.matches(found["data"][0]):
            return next(iter(found["data"]), None)
        found = await self._list({"limit": self._options.page})
        return next((entry for entry in found["data"] if self._listing.matches(entry)), None)

    async def _newer(self, newest: str) -> tuple[list[Row], bool]:
        """Return the next page after an entry, oldest first, and whether there are more pages."""
        try:
            found = await self._list({"ending_before": newest, "limit": self._options.page})
        except CursorGoneError as error:
            raise SourcePositionLostError(
                f"Stripe does not know the position of {self._listing.name}: {error}"
            ) from error
        return found["data"][::-1], found["has_more"]

    async def _recent(self, at: FeedPosition) -> tuple[list[Row], list[Row]]:
        """Return the entries of the overlap that were not returned yet, oldest first, and those among them that became visible
        late: a newer entry was returned before.
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
        # Within a second, the order of the list is the best one available.
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
        """Yield the pages of a list, newest first."""
        after: str | None = None
        for _ in range(_MAX_PAGES):
            cursor = {"starting_after": after} if after else {}
            found = await self._list({**params, **cursor, "limit": self._options.page})
            yield [entry for entry in found["data"] if self._listing.matches(entry)]
            if not found["has_more"]:
                return
            after = found["data"][-1]["id"]

    async def _list(self, params: Mapping[str, Any]) -> Row:
        listing = self._listing
        return await self._client.get(
            listing.path, {**listing.params, **params}, Priority.STREAM, listing.name
        )
