"""Following the time based exports: organizations and ticket events.

A page ends with a second, or within one if it is full; then the next page repeats rows of that second (recorded). So a position
has the rows of the last second that were returned. A second with more rows than a page cannot be read to its end: that is a gap.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import msgspec
from msgspec.structs import replace

from dimesh.clock import Clock
from dimesh.contact import report_delivered
from dimesh.sourcekit.budget import Priority
from dimesh.sourcekit.positions import PositionCodec
from dimesh.spi.cdc import Change, ChangeBatch, Gap
from dimesh_zendesk.catalogue import Resource
from dimesh_zendesk.changes import Row, digest, is_deleted, moment, snapshot_change, stamp_of, streamed_change
from dimesh_zendesk.client import Client
from dimesh_zendesk.events import TimedPage, timed_page
from dimesh_zendesk.options import ZendeskOptions
from dimesh_zendesk.waiting import Bell
from dimesh_zendesk.watch import Watches


class TimedPosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The position of a stream."""

    following: int
    """The time from which the next page is read."""
    mark: int
    """The time up to which all rows were returned."""
    seen: dict[str, str] = {}
    """The rows of the last second that were returned: what stands for their content, by id."""
    lost: str = ""
    """As in :class:`dimesh_zendesk.exports.ExportPosition`."""


class StartPosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The position of a snapshot."""

    following: int | None
    """The time from which the next page is read; None: the snapshot is complete."""
    until: int
    seen: dict[str, str] = {}


POSITIONS: Final = PositionCodec(TimedPosition, "Zendesk")
STARTS: Final = PositionCodec(StartPosition, "Zendesk")


class TimedExport:
    """Reads one time based export."""

    def __init__(
        self, options: ZendeskOptions, clock: Clock, client: Client, resource: Resource, watches: Watches
    ) -> None:
        self._options = options
        self._clock = clock
        self._client = client
        self._resource = resource
        self._watches = watches

    async def shown(self) -> int:
        """Return the time up to which Zendesk shows changes now; asks it for its time."""
        await self._client.get("users/me.json", {}, Priority.STREAM, self._resource.name)
        return int(self._client.time() - self._options.hold_back)

    async def position(self) -> bytes:
        """Return the current position."""
        shown = await self.shown()
        lost = await self._watches.lost_until()
        return POSITIONS.encode(TimedPosition(shown + 1, shown, {}, lost))

    async def stream(self, position: bytes, bell: Bell) -> AsyncIterator[ChangeBatch]:
        """Yield the changes after a position."""
        name = self._resource.name
        at = POSITIONS.decode(position, name)
        while True:
            bell.clear()
            polling = self._clock.time()
            if (found := await self._watches.lost(at.lost)) is not None:
                at = replace(at, lost=found.until)
                gap = Gap(name, found.cause, found.since, resnapshot=False)
                yield ChangeBatch([gap], POSITIONS.encode(at))
            while True:
                page = await timed_page(self._client, self._resource, at.following, Priority.STREAM)
                read = self._client.time()
                items: list[Change | Gap] = [
                    streamed_change(row, self._resource, at.mark, read) for row in self._fresh(page, at.seen)
                ]
                if page.stuck is not None:
                    items.append(self._gap(page.stuck))
                before, at = at, self._after(page, at)
                if items or at.following != before.following:
                    yield ChangeBatch(items, POSITIONS.encode(at))
                if page.end:
                    break
            report_delivered(polling - self._options.hold_back)
            await bell.wait(min(self._options.poll, self._watches.seconds(self._resource)))

    def _fresh(self, page: TimedPage, seen: dict[str, str]) -> list[Row]:
        key = self._resource.key
        rows = {str(row.get(key)): row for row in page.rows}
        return [row for id, row in rows.items() if seen.get(id) != digest(row)]

    def _after(self, page: TimedPage, at: TimedPosition) -> TimedPosition:
        """Return the position after a page."""
        last = page.following - 1
        seen = at.seen if at.following == page.following else {}
        seen = seen | {
            str(row.get(self._resource.key)): digest(row)
            for row in page.rows
            if (stamp_of(row, self._resource) or 0) >= last
        }
        return replace(at, following=page.following, mark=max(at.mark, last - 1), seen=seen)

    def _gap(self, second: int) -> Gap:
        """Return the gap of a second with more rows than a page."""
        when = moment(second)
        cause = (
            f"more {self._resource.name} changed in the second {when:%Y-%m-%dT%H:%M:%SZ} than a page of Zendesk's export has: "
            "the others of that second cannot be read from it"
        )
        return Gap(self._resource.name, cause, when, when, resnapshot=bool(self._resource.all))

    async def snapshot(self, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        """Yield the current rows of an export that has no list of all rows."""
        name = self._resource.name
        at = STARTS.decode(resume, name) if resume is not None else StartPosition(0, await self.shown())
        while at.following is not None:
            page = await timed_page(self._client, self._resource, at.following, Priority.SNAPSHOT)
            read = self._client.time()
            rows = [row for row in self._fresh(page, at.seen) if not is_deleted(row)]
            following = self._after(page, TimedPosition(at.following, 0, at.seen))
            done = page.end or page.following > at.until
            at = StartPosition(None if done else page.following, at.until, following.seen)
            yield ChangeBatch([snapshot_change(row, self._resource, read) for row in rows], STARTS.encode(at))
