"""Rows in the order of their making, and the pages that Stripe's lists are cut into. A page costs what is on it, however long
the list is: all walks are lazy, and begin at the cursor.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice, takewhile
from typing import Any

Row = dict[str, Any]


class Refused(Exception):  # noqa: N818 - not an error of ours
    """A request that Stripe answers with an error."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body: Row = {"message": message, "type": "invalid_request_error"}
        if code is not None:
            self.body |= {
                "code": code,
                "doc_url": f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}",
            }
        if param is not None:
            self.body["param"] = param


class Timeline:
    """Rows sorted by ``created``; within a second by when they were added. Those without it stay as they are given.

    Args:
        rows: oldest first.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._rows = list(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Row) -> None:
        """At its place: that is the end, unless the clock was set back or the row says when it was made."""
        insort_right(self._rows, row, key=_created)

    def remove(self, row: Row) -> None:
        """Take a row out."""
        at = bisect_left(self._rows, _created(row), key=_created)
        while self._rows[at] is not row:
            at += 1
        del self._rows[at]

    def age(self, seconds: int) -> None:
        """All of them were made so much earlier."""
        for row in self._rows:
            row["created"] -= seconds

    def down(self, most: float | None = None) -> Iterator[Row]:
        """Newest first; ``most``: from that second on into the past."""
        end = len(self._rows) if most is None else bisect_right(self._rows, most, key=_created)
        return (self._rows[n] for n in range(end - 1, -1, -1))

    def up(self, least: float | None = None) -> Iterator[Row]:
        """Oldest first; ``least``: from that second on."""
        begin = 0 if least is None else bisect_left(self._rows, least, key=_created)
        return (self._rows[n] for n in range(begin, len(self._rows)))


def page(
    rows: Timeline,
    params: Mapping[str, Any],
    find: Callable[[str, str], Row],
    url: str,
    shown: Callable[[Row], Row] = lambda row: row,
    keep: Callable[[Row], bool] = lambda row: True,
    least: float = -math.inf,
) -> Row:
    """A page of a list, newest first, as all of Stripe's lists are cut.

    Args:
        rows: all there are.
        params: of the request.
        find: the row of a cursor, by its id and the parameter that names it.
        url: of the list.
        shown: how a row looks in the answer.
        keep: whether a row is in the list; the cursor need not be.
        least: none was made before that.

    Raises:
        Refused: the parameters do not fit, or the cursor is not there.
    """
    limit = _whole(params.get("limit", "10"), "limit")
    if not 1 <= limit <= 100:
        raise Refused(
            400, "This value must be between 1 and 100 (inclusive).", "parameter_invalid_integer", "limit"
        )
    after, before = params.get("starting_after"), params.get("ending_before")
    if after and before:
        raise Refused(400, "You can only specify one of these parameters: starting_after, ending_before.")
    lowest, most = _bounds(params.get("created"))
    least = max(least, lowest)
    if before:
        cursor = find(str(before), "ending_before")
        walk = _past(cursor, rows.up(cursor.get("created")))
    elif after:
        cursor = find(str(after), "starting_after")
        walk = _past(cursor, rows.down(cursor.get("created")))
    else:
        walk = rows.down(None if most == math.inf else most)
    # One of the bounds ends the walk, the other one only leaves rows out.
    within = takewhile(
        lambda row: _between(row, -math.inf, most) if before else _between(row, least, math.inf), walk
    )
    wanted = (row for row in within if keep(row) and _between(row, least, most))
    found = list(islice(wanted, limit + 1))
    more = len(found) > limit
    del found[limit:]
    if before:
        found.reverse()
    return {"object": "list", "url": url, "has_more": more, "data": [shown(row) for row in found]}


def _created(row: Row) -> int:
    return int(row["created"])


def _past(cursor: Row, walk: Iterator[Row]) -> Iterator[Row]:
    """The walk from the row after the cursor on."""
    for row in walk:
        if row["id"] == cursor["id"]:
            break
    return walk


def _between(row: Row, least: float, most: float) -> bool:
    return "created" not in row or least <= row["created"] <= most


def _bounds(wanted: Any) -> tuple[float, float]:
    """The lowest and the highest ``created`` that a filter lets pass."""
    if wanted is None:
        return -math.inf, math.inf
    if not isinstance(wanted, Mapping):
        exact = _whole(wanted, "created")
        return exact, exact
    given = {name: _whole(value, f"created[{name}]") for name, value in wanted.items()}
    return (
        max(given.get("gte", -math.inf), given["gt"] + 1 if "gt" in given else -math.inf),
        min(given.get("lte", math.inf), given["lt"] - 1 if "lt" in given else math.inf),
    )


def _whole(text: Any, name: str) -> int:
    try:
        return int(text)
    except (TypeError, ValueError):
        raise Refused(400, f"Invalid integer: {text}", "parameter_invalid_integer", name) from None
