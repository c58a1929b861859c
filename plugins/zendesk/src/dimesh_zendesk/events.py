"""Reading ticket events ahead, for the changes of tickets."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from dimesh.sourcekit.budget import Priority
from dimesh_zendesk.catalogue import RESOURCES, Resource
from dimesh_zendesk.changes import Row, epoch
from dimesh_zendesk.client import Client, TooRecentError

log = logging.getLogger("dimesh.cdc.zendesk")

_MOST: Final = 100_000
"""The largest number of events that wait for their ticket. Beyond it the oldest are dropped: their ticket is then published as it
is, without the states between."""
_FULL: Final = 1_000
"""The number of rows of a full page (recorded)."""


class TimedPage:
    """A page of a time based export.

    Args:
        rows: the rows.
        following: the time from which the next page is read.
        end: whether there is no more for now.
        stuck: the second that has more rows than a page: the others of it cannot be read.
    """

    __slots__ = ("end", "following", "rows", "stuck")

    def __init__(self, rows: list[Row], following: int, end: bool, stuck: int | None = None) -> None:
        self.rows = rows
        self.following = following
        self.end = end
        self.stuck = stuck


async def timed_page(client: Client, resource: Resource, start: int, priority: Priority) -> TimedPage:
    """Return the page of a time based export from a time on.

    The next page begins at ``end_time``; a full page ends within a second and repeats rows of it, and a second that has more rows
    than a page would repeat for ever (recorded).
    """
    params: Mapping[str, Any] = {**resource.params, "start_time": str(start)}
    try:
        found = await client.export(resource.path, params, priority, resource.name)
    except TooRecentError:
        return TimedPage([], start, True)
    rows: list[Row] = list(found.get(resource.field) or ())
    end_time = epoch(found.get("end_time"))
    following = max(end_time if end_time is not None else start, start)
    # The exports of calls have no end_of_stream; a page that names itself as the next one is the last (zenpy #489).
    end = bool(found.get("end_of_stream", len(rows) < client.page_size(resource.path)))
    if end or following > start:
        return TimedPage(rows, following, end)
    if not rows:
        return TimedPage(rows, following, True)
    return TimedPage(rows, start + 1, False, stuck=start)


class EventReader:
    """Reads the export of ticket events, and keeps those of tickets that have not come yet.

    Args:
        client: sends the requests.
        since: the time up to which events are accounted for.
    """

    def __init__(self, client: Client, since: int) -> None:
        self._client = client
        self._resource = RESOURCES["ticket_events"]
        self._since = since
        self._next = since + 1
        self._read = since
        self._last: set[Any] = set()
        self._waiting: dict[Any, list[Row]] = {}
        self._count = 0

    async def read_until(self, moment: int) -> None:
        """Read all events up to a second."""
        while self._read < moment:
            async for rows in self._pages(moment):
                self._keep(rows)

    async def _pages(self, moment: int) -> AsyncIterator[list[Row]]:
        while True:
            page = await timed_page(self._client, self._resource, self._next, Priority.STREAM)
            if page.stuck is not None:
                log.warning(
                    "more ticket events happened in the second %d than one page has: changes of their tickets may be published "
                    "together", page.stuck,
                )  # fmt: skip
            yield page.rows
            self._next = page.following
            if page.end or page.following > moment:
                # Events are held back as tickets are: what is not here now of an earlier second does not come later.
                self._read = moment
                return

    def _keep(self, rows: list[Row]) -> None:
        fresh = [row for row in rows if row.get("id") not in self._last]
        if rows:
            last = max(epoch(row.get("timestamp")) or 0 for row in rows)
            self._last = {row.get("id") for row in rows if (epoch(row.get("timestamp")) or 0) >= last - 1}
        for row in fresh:
            if (epoch(row.get("timestamp")) or 0) > self._since:
                self._waiting.setdefault(row.get("ticket_id"), []).append(row)
                self._count += 1
        while self._count > _MOST:
            first = next(iter(self._waiting))
            self._count -= len(self._waiting.pop(first))

    def take(self, ticket: Any, until: int) -> list[Row]:
        """Return the events of a ticket up to a second, oldest first, and forget them."""
        found = self._waiting.pop(ticket, [])
        self._count -= len(found)
        later = [row for row in found if (epoch(row.get("timestamp")) or 0) > until]
        if later:
            self._waiting[ticket] = later
            self._count += len(later)
        taken = {row.get("id"): row for row in found if (epoch(row.get("timestamp")) or 0) <= until}
        return sorted(taken.values(), key=lambda row: (epoch(row.get("timestamp")) or 0, row.get("id") or 0))

    @property
    def oldest(self) -> float:
        """The time of the oldest event whose ticket has not come; infinite if there is none."""
        waiting = (rows[0] for rows in self._waiting.values())
        return min((epoch(row.get("timestamp")) or 0 for row in waiting), default=float("inf"))

    def forget(self, until: int) -> None:
        """Forget the events up to a second: all tickets up to it have come."""
        self._since = max(self._since, until)
        for ticket in list(self._waiting):
            self._waiting[ticket] = [
                row for row in self._waiting[ticket] if (epoch(row.get("timestamp")) or 0) > until
            ]
            if not self._waiting[ticket]:
                del self._waiting[ticket]
        self._count = sum(map(len, self._waiting.values()))
