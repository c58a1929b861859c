"""Reading ticket events ahead, for the changes of tickets."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from dimesh.sourcekit.budget import Priority
from dimesh_zendesk.catalogue import RESOURCES, Resource
from dimesh_zendesk.changes import Row, epoch
from dimesh_zendesk.client import Client, TooRecentError

log = logging.getLogger("dimesh.cdc.zendesk")

_MOST: Final = 100_000
"""The largest number of events that wait for their ticket. Beyond it the oldest are dropped: their ticket is then published as it
is, without the states between."""
_MOST_USED: Final = 5_000
"""The largest number of used events in a position; further ones may be published again, with the same identity."""
_ORPHANED: Final = 900
"""The number of seconds after which an event does not wait for its ticket any longer."""


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

    A ticket that changes again while it is held back comes late, and its earlier events have to wait for it.

    Args:
        client: sends the requests.
        since: the time up to which all events were used.
        used: the events after that time that were used.
    """

    def __init__(self, client: Client, since: int, used: Iterable[int] = ()) -> None:
        self._client = client
        self._resource = RESOURCES["ticket_events"]
        self._since = since
        self._next = since + 1
        self._read = since
        self._used: dict[int, int] = dict.fromkeys(used, since + 1)
        """The time of each event after ``since`` that was used; of those of the position, it is not known."""
        self._taken: dict[Any, int] = {}
        """The time up to which the events of a ticket were taken: one that appears later was published with its ticket."""
        self._last: set[Any] = set()
        self._waiting: dict[Any, list[Row]] = {}
        self._count = 0

    async def read_until(self, moment: int) -> None:
        """Read all events up to a second."""
        while self._read < moment:
            page = await timed_page(self._client, self._resource, self._next, Priority.STREAM)
            if page.stuck is not None:
                log.warning(
                    "more ticket events happened in the second %d than a page has: changes of their tickets may be published "
                    "together", page.stuck,
                )  # fmt: skip
            self._keep(page.rows)
            self._next = page.following
            if page.end or page.following > moment:
                # Events are held back as tickets are: what is not here now of an earlier second does not come later.
                self._read = moment

    def _keep(self, rows: list[Row]) -> None:
        fresh = [row for row in rows if row.get("id") not in self._last]
        if rows:
            last = max(map(_time, rows))
            self._last = {row.get("id") for row in rows if _time(row) >= last - 1}
        for row in fresh:
            id = row.get("id")
            if id in self._used:
                self._used[id] = _time(row)
            elif _time(row) > max(self._since, self._taken.get(row.get("ticket_id"), 0)):
                self._waiting.setdefault(row.get("ticket_id"), []).append(row)
                self._count += 1
        while self._count > _MOST:
            self._drop(next(iter(self._waiting)))

    def _drop(self, ticket: Any) -> list[Row]:
        found = self._waiting.pop(ticket, [])
        self._count -= len(found)
        return found

    def take(self, ticket: Any, until: int) -> list[Row]:
        """Return the events of a ticket up to a second, oldest first, and count them as used."""
        self._taken.pop(ticket, None)
        self._taken[ticket] = until
        while len(self._taken) > _MOST:
            del self._taken[next(iter(self._taken))]
        found = self._drop(ticket)
        later = [row for row in found if _time(row) > until]
        if later:
            self._waiting[ticket] = later
            self._count += len(later)
        taken = {row.get("id"): row for row in found if _time(row) <= until}
        self._used |= {int(row.get("id") or 0): _time(row) for row in taken.values()}
        return sorted(taken.values(), key=lambda row: (_time(row), row.get("id") or 0))

    def settle(self, mark: int, shown: int | None) -> tuple[int, list[int]]:
        """Return the time up to which all events were used, and the events after it that were.

        Args:
            mark: the time up to which all tickets came, except those that changed again.
            shown: the time up to which the export shows changes, if its end was reached; None: it has more pages. Events that
                have waited for long by then are of tickets that do not come.
        """
        if shown is not None:
            for ticket in [id for id, rows in self._waiting.items() if _time(rows[0]) < shown - _ORPHANED]:
                self._drop(ticket)
        oldest = min((_time(rows[0]) for rows in self._waiting.values()), default=mark + 1)
        self._since = max(self._since, min(mark, oldest - 1))
        self._used = {id: when for id, when in self._used.items() if when > self._since}
        while len(self._used) > _MOST_USED:
            del self._used[next(iter(self._used))]
        return self._since, list(self._used)


def _time(event: Row) -> int:
    return epoch(event.get("timestamp")) or 0
