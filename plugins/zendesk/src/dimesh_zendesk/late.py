"""Following lists whose rows appear seconds to minutes after their time, and behind later ones.

Each poll reads the overlap again, and the position has the rows of it that were returned (estuary/connectors #5205, #5209,
#5009).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import msgspec

from dimesh.clock import Clock
from dimesh.contact import report_delivered
from dimesh.sourcekit.budget import Priority
from dimesh.sourcekit.positions import PositionCodec
from dimesh.spi.cdc import Change, ChangeBatch, Operation
from dimesh_zendesk.catalogue import Resource
from dimesh_zendesk.changes import Row, digest, epoch, moment, snapshot_change, stamp_of
from dimesh_zendesk.client import Client
from dimesh_zendesk.events import timed_page
from dimesh_zendesk.options import ZendeskOptions
from dimesh_zendesk.waiting import Bell
from dimesh_zendesk.watch import next_page

_MOST: Final = 5_000
"""The largest number of rows that a position remembers; further ones may be returned again, with the same identity."""


class LatePosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The position of a stream."""

    since: int
    """The beginning of the last complete poll, by Zendesk's clock."""
    seen: dict[str, str] = {}
    """What stands for the content of the rows of the overlap that were returned, by id."""


class ListPosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The position of a snapshot."""

    following: str | None
    """The address, or the time, of the next page; None: the snapshot is complete."""


POSITIONS: Final = PositionCodec(LatePosition, "Zendesk")
PAGES: Final = PositionCodec(ListPosition, "Zendesk")


class LateList:
    """Reads one such list."""

    def __init__(self, options: ZendeskOptions, clock: Clock, client: Client, resource: Resource) -> None:
        self._options = options
        self._clock = clock
        self._client = client
        self._resource = resource
        self._overlap = int(max(options.overlap, options.hold_back + 5))

    async def position(self) -> bytes:
        """Return the current position, which knows the rows of the overlap: they are in the snapshot."""
        began = await self._now()
        seen: dict[str, str] = {}
        async for rows, _ in self._pages(str(began - self._overlap), Priority.STREAM):
            seen |= {self._id(row): digest(row) for row in rows}
        return POSITIONS.encode(LatePosition(began, self._trimmed(seen)))

    async def _now(self) -> int:
        await self._client.get("users/me.json", {}, Priority.STREAM, self._resource.name)
        return int(self._client.time())

    async def stream(self, position: bytes, bell: Bell) -> AsyncIterator[ChangeBatch]:
        """Yield new and changed rows, poll by poll."""
        at = POSITIONS.decode(position, self._resource.name)
        while True:
            bell.clear()
            polling, began = self._clock.time(), await self._now()
            lowest = min(at.since, began) - self._overlap
            read: dict[str, str] = {}
            known = dict(at.seen)
            async for rows, _ in self._pages(str(lowest), Priority.STREAM):
                read |= {self._id(row): digest(row) for row in rows}
                fresh = {self._id(row): row for row in rows if known.get(self._id(row)) != digest(row)}
                changes = [self._change(row, known, lowest) for row in fresh.values()]
                if changes:
                    known |= {self._id(row): digest(row) for row in fresh.values()}
                    yield ChangeBatch(changes, POSITIONS.encode(LatePosition(at.since, self._trimmed(known))))
            at = LatePosition(max(at.since, began), self._trimmed(read))
            yield ChangeBatch((), POSITIONS.encode(at))
            report_delivered(polling - self._overlap)
            await bell.wait(self._options.poll)

    @staticmethod
    def _trimmed(seen: dict[str, str]) -> dict[str, str]:
        return dict(list(seen.items())[-_MOST:])

    def _id(self, row: Row) -> str:
        return str(row.get(self._resource.key))

    def _change(self, row: Row, known: dict[str, str], lowest: int) -> Change:
        resource = self._resource
        stamp = stamp_of(row, resource)
        created = epoch(row.get("created_at"))
        new = resource.appends or (self._id(row) not in known and created is not None and created >= lowest)
        read = self._client.time()
        operation = Operation.INSERT if new else Operation.UPDATE
        if row.get("deleted") is True:
            operation = Operation.DELETE
        return Change(
            identity=f"{self._id(row)}:{digest(row)}",
            operation=operation,
            object=resource.name,
            primary_key={resource.key: row.get(resource.key)},
            before=None,
            after=None if operation is Operation.DELETE else row,
            timestamp=moment(stamp if stamp is not None else read),
            sequence=str(stamp) if stamp is not None else None,
        )

    async def snapshot(self, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        """Yield all rows."""
        start = PAGES.decode(resume, self._resource.name).following if resume is not None else "0"
        if start is None:
            return
        async for rows, following in self._pages(start, Priority.SNAPSHOT):
            read = self._client.time()
            live = {self._id(row): row for row in rows if row.get("deleted") is not True}
            items = [snapshot_change(row, self._resource, read) for row in live.values()]
            yield ChangeBatch(items, PAGES.encode(ListPosition(following)))

    async def _pages(self, start: str, priority: Priority) -> AsyncIterator[tuple[list[Row], str | None]]:
        """Yield the rows from a time on, or from an address that an answer named, with what the next page begins at."""
        resource = self._resource
        if not resource.paged:
            following: int | None = int(start)
            while following is not None:
                page = await timed_page(self._client, resource, following, priority)
                following = None if page.end else page.following
                yield page.rows, str(following) if following is not None else None
            return
        if start.lstrip("-").isdigit():
            begin = max(int(start), 0)
            params: dict[str, object] = {**resource.params, "page[size]": "100"}
            if len(resource.window) == 2:
                span = [moment(begin).isoformat(), moment(int(self._client.time()) + 86_400).isoformat()]
                params[resource.window[0]] = [text.replace("+00:00", "Z") for text in span]
            elif resource.window == ("since",):
                params["since"] = moment(begin).isoformat().replace("+00:00", "Z")
            else:
                params[resource.window[0]] = str(begin)
            path = resource.path
        else:
            path, params = start, {}
        while path:
            found = await self._client.get(path, params, priority, resource.name)
            path, params = next_page(found), {}
            yield list(found.get(resource.field) or ()), path or None
