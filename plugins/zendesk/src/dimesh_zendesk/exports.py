"""Following the cursor based exports: tickets and users.

An export is sorted by the time of the last change and the id, and shows each row once, at its latest change; changes of the
last minute are held back. So a cursor is a position, the export from time 0 is a snapshot, and all rows of the snapshot that
are changed meanwhile come again at the end.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec
from msgspec.structs import replace

from dimesh.clock import Clock
from dimesh.contact import report_delivered
from dimesh.errors import SourceUnavailableError
from dimesh.sourcekit.budget import Priority
from dimesh.sourcekit.positions import PositionCodec
from dimesh.spi.cdc import Change, ChangeBatch, Gap, Operation
from dimesh_zendesk.catalogue import Resource
from dimesh_zendesk.changes import (
    SCRUB_SLACK,
    Row,
    deleted_change,
    epoch,
    is_deleted,
    is_scrubbed,
    moment,
    snapshot_change,
    stamp_of,
    streamed_change,
)
from dimesh_zendesk.client import Client, TooRecentError
from dimesh_zendesk.events import EventReader
from dimesh_zendesk.history import changes_of
from dimesh_zendesk.options import ZendeskOptions
from dimesh_zendesk.waiting import Bell
from dimesh_zendesk.watch import Watches

log = logging.getLogger("dimesh.cdc.zendesk")

MARGIN: Final = 5
"""The number of seconds that a start time lies before what Zendesk still shows, so that it is never too recent."""
_TOMBSTONES: Final = 200
"""The number of deleted rows that a position remembers: tickets are shown again when they are scrubbed, users when they are
deleted for good."""
_STUCK: Final = 3
"""The number of polls after which a cursor that does not move is an error."""


class ExportPosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The position of a stream."""

    cursor: str | None
    """What the export gave after the last page; None: nothing has been read."""
    start: int
    """The time to read from while there is no cursor."""
    mark: int
    """The time up to which all rows were returned: that of the last row."""
    since: int
    """The time up to which all ticket events were used."""
    used: list[int] = []
    """The ticket events after that time that were used."""
    options: str = ""
    """What stands for the options of the ticket fields."""
    lost: str = ""
    """The time of the last webhook invocation that was reported as not delivered."""
    gone: list[int] = []
    """The rows that were returned as deleted last."""


class PagePosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The position of a snapshot."""

    cursor: str | None
    """What the export gave after the last page; None: the snapshot is complete."""
    until: int
    """When the snapshot began: later changes are those of the stream."""


POSITIONS: Final = PositionCodec(ExportPosition, "Zendesk")
PAGES: Final = PositionCodec(PagePosition, "Zendesk")


class Page(msgspec.Struct):
    """A page of an export."""

    rows: list[Row]
    cursor: str | None
    end: bool
    """Whether there is no more for now."""
    answer: dict[str, Any]


class Tombstones:
    """The rows that the export shows as deleted, as the last snapshot saw them."""

    def __init__(self) -> None:
        self.ids: set[int] = set()
        self.complete = False
        """Whether one process has read all of the export."""

    def begin(self) -> None:
        """Begin a snapshot at its first row."""
        self.ids.clear()
        self.complete = True


class Children(Protocol):
    """Reads the rows below the rows of an export."""

    async def read(self, page: Page, mark: int | None, priority: Priority) -> Sequence[Change]:
        """Return the rows below those of a page; ``mark`` is the time of the last page, None in a snapshot."""
        ...


class Export:
    """Reads one cursor based export.

    Args:
        options: of the source.
        clock: for the intervals.
        client: sends the requests.
        resource: the object of the export.
        about: the object that is captured: the same, or one below its rows.
        watches: what is watched beside the export.
    """

    def __init__(
        self,
        options: ZendeskOptions,
        clock: Clock,
        client: Client,
        resource: Resource,
        about: Resource,
        watches: Watches,
    ) -> None:
        self._options = options
        self._clock = clock
        self._client = client
        self._resource = resource
        self._about = about
        self._watches = watches
        self._params = {**resource.params, **(about.params if about is not resource else {})}

    async def _page(self, cursor: str | None, start: int, priority: Priority) -> Page:
        params = {**self._params, **({"cursor": cursor} if cursor else {"start_time": str(start)})}
        found = await self._client.export(self._resource.path, params, priority, self._about.name)
        rows = found.get(self._resource.field)
        if not isinstance(rows, list):
            raise SourceUnavailableError(
                f"Zendesk answered {self._about.name} without the field {self._resource.field}"
            )
        after = found.get("after_cursor")
        return Page(rows, str(after) if after else None, bool(found.get("end_of_stream", not rows)), found)

    async def shown(self) -> int:
        """Return the time up to which Zendesk shows changes now; asks it for its time."""
        await self._client.get("users/me.json", {}, Priority.STREAM, self._about.name)
        return int(self._client.time() - self._options.hold_back)

    async def position(self) -> bytes:
        """Return the current position, which is after everything that the export shows."""
        mark = await self.shown()
        start = mark - MARGIN
        cursor = None
        while True:
            try:
                page = await self._page(cursor, start, Priority.STREAM)
            except TooRecentError:
                break
            moved, cursor = page.cursor not in (None, cursor), page.cursor or cursor
            mark = max([mark, *(stamp_of(row, self._resource) or 0 for row in page.rows)])
            if page.end or not moved:
                break
        options = await self._watches.options() if self._about.name == "tickets" else ""
        lost = await self._watches.lost_until() if self._about.events else ""
        return POSITIONS.encode(ExportPosition(cursor, start, mark, mark, [], options, lost))

    async def tombstones(self) -> set[int]:
        """Return the ids of all rows that the export shows as deleted. That costs as much as a snapshot."""
        found: set[int] = set()
        cursor = None
        while True:
            try:
                page = await self._page(cursor, 0, Priority.SNAPSHOT)
            except TooRecentError:
                return found
            found.update(int(row["id"]) for row in page.rows if is_deleted(row))
            if page.end or page.cursor in (None, cursor):
                return found
            cursor = page.cursor

    async def deleted(self, since: int) -> AsyncIterator[ChangeBatch]:
        """Yield the deletes that the export shows from a time on; it shows those of all times."""
        cursor = None
        while True:
            try:
                page = await self._page(cursor, since, Priority.SNAPSHOT)
            except TooRecentError:
                return
            rows = [row for row in page.rows if is_deleted(row)]
            yield ChangeBatch(
                [deleted_change(row, self._resource, stamp_of(row, self._resource) or since) for row in rows],
                b"",
            )
            if page.end or page.cursor in (None, cursor):
                return
            cursor = page.cursor

    async def snapshot(
        self, resume: bytes | None, tombstones: Tombstones, children: Children | None = None
    ) -> AsyncIterator[ChangeBatch]:
        """Yield the current rows.

        Args:
            resume: the position of an earlier batch.
            tombstones: notes the deleted rows.
            children: yields the rows below those of the export in place of them.
        """
        at = PAGES.decode(resume, self._about.name) if resume is not None else None
        if at is not None and at.cursor is None:
            return
        until = at.until if at is not None else await self.shown()
        cursor = at.cursor if at is not None else None
        if at is None:
            tombstones.begin()
        while True:
            try:
                page = await self._page(cursor, 0, Priority.SNAPSHOT)
            except TooRecentError:
                return
            read = self._client.time()
            tombstones.ids.update(int(row["id"]) for row in page.rows if is_deleted(row))
            last = stamp_of(page.rows[-1], self._resource) if page.rows else None
            # The pages end where the stream begins; without that, changes would keep a snapshot going for ever.
            done = page.end or page.cursor in (None, cursor) or (last is not None and last > until)
            cursor = page.cursor
            live = [row for row in page.rows if not is_deleted(row)]
            if children is None:
                items = [snapshot_change(row, self._resource, read) for row in live]
            else:
                items = list(await children.read(replace(page, rows=live), None, Priority.SNAPSHOT))
            yield ChangeBatch(items, PAGES.encode(PagePosition(None if done else cursor, until)))
            if done:
                return

    async def stream(
        self, position: bytes, bell: Bell, children: Children | None = None
    ) -> AsyncIterator[ChangeBatch]:
        """Yield the changes after a position; polls, and reads when the bell says that there is something to see."""
        at = POSITIONS.decode(position, self._about.name)
        events = None
        if self._options.history and self._about.name == "tickets":
            events = EventReader(self._client, at.since, at.used)
        stuck = 0
        while True:
            bell.clear()
            polling = self._clock.time()
            async for gap, moved in self._gaps(at):
                at = moved
                yield ChangeBatch([gap] if gap is not None else (), POSITIONS.encode(at))
            while True:
                try:
                    page = await self._page(at.cursor, at.start, Priority.STREAM)
                except TooRecentError:
                    break
                if page.cursor == at.cursor and page.cursor is not None and page.rows and not page.end:
                    stuck += 1
                    if stuck >= _STUCK:
                        raise SourceUnavailableError(
                            f"the export of {self._resource.name} gives the same cursor again and again, with more rows to come"
                        )
                    break
                stuck = 0
                batch, at = await self._batch(page, at, events, children)
                if batch:
                    yield ChangeBatch(batch, POSITIONS.encode(at))
                elif page.rows:
                    yield ChangeBatch((), POSITIONS.encode(at))
                if page.end or not page.rows:
                    break
            report_delivered(polling - self._options.hold_back)
            await bell.wait(min(self._options.poll, self._watches.seconds(self._about)))

    async def _batch(
        self, page: Page, at: ExportPosition, events: EventReader | None, children: Children | None
    ) -> tuple[list[Change | Gap], ExportPosition]:
        """Return the changes of a page and the position after it."""
        read = self._client.time()
        stamps = [stamp_of(row, self._resource) or at.mark for row in page.rows]
        mark = max([at.mark, *stamps])
        items: list[Change | Gap] = []
        gone = list(at.gone)
        if children is not None:
            items += await children.read(page, at.mark, Priority.STREAM)
        else:
            if events is not None and page.rows:
                await events.read_until(mark)
            for row, stamp in zip(page.rows, stamps, strict=True):
                items += self._changes(row, stamp, at, events, gone, read)
        since, used = at.since, at.used
        if page.rows and events is not None:
            shown = int(read - self._options.hold_back) if page.end else None
            since, used = events.settle(mark, shown)
        moved = replace(
            at, cursor=page.cursor or at.cursor, mark=mark, since=since, used=used, gone=gone[-_TOMBSTONES:]
        )
        return items, moved

    def _changes(
        self,
        row: Row,
        stamp: int,
        at: ExportPosition,
        events: EventReader | None,
        gone: list[int],
        read: float,
    ) -> list[Change]:
        taken = events.take(row["id"], stamp) if events is not None else []
        if not is_deleted(row):
            if row["id"] in gone:
                gone.remove(row["id"])  # it was restored
        elif row["id"] in gone and not taken:
            return []  # the second tombstone
        elif is_scrubbed(row) and (epoch(row.get("updated_at")) or stamp) + SCRUB_SLACK < at.mark:
            return []  # the first tombstone was among the rows up to the mark
        elif row["id"] not in gone:
            gone.append(row["id"])
        plain = streamed_change(row, self._resource, at.mark, read)
        if events is None or is_scrubbed(row):
            return [plain]
        found = changes_of(row, taken, self._resource, plain.operation is Operation.INSERT, stamp)
        if found is None or (
            plain.operation is Operation.DELETE and found[-1].operation is not Operation.DELETE
        ):
            return [plain]
        return found

    async def _gaps(self, at: ExportPosition) -> AsyncIterator[tuple[Gap | None, ExportPosition]]:
        """Yield what may be missing beside the export, each with the position that remembers it."""
        since: datetime = moment(at.mark)
        name = self._about.name
        if name == "tickets" and self._watches.options_due():
            options = await self._watches.options()
            if not options or options == at.options:
                pass  # unknown for now, or as before
            elif at.options and self._watches.options_gone(at.options):
                cause = "an option of a ticket field is gone: tickets may have lost that value without any other sign"
                at = replace(at, options=options)
                yield Gap(name, cause, since), at
            else:
                at = replace(at, options=options)
                yield None, at
        if self._about.events and (found := await self._watches.lost(at.lost)) is not None:
            at = replace(at, lost=found.until)
            # The export has what the webhooks did not tell; it is read next.
            yield Gap(name, found.cause, found.since, resnapshot=False), at
