"""Rows in the order of their creation, and the pages that Stripe's lists are cut into.

A page costs as much as the rows on it, however long the list is: every walk is lazy, and begins at the cursor.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice, takewhile
from typing import Any

from dimesh.sourcekit.sandbox import Refused, Row


class StripeRefused(Refused):
    """A request that Stripe answers with an error.

    Args:
        status: the HTTP status.
        message: the text for people.
        code: the error code, if there is one.
        param: the parameter that is wrong, if it is one.
    """

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(status, message)
        self.body: Row = {"message": message, "type": "invalid_request_error"}
        if code is not None:
            self.body |= {
                "code": code,
                "doc_url": f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}",
            }
        if param is not None:
            self.body["param"] = param


class Timeline:
    """Rows sorted by ``created``, and within one second by the time at which they were added. ``created`` counts whole
    seconds (reference), so that several rows share one.

    Args:
        rows: the first rows, oldest first; rows without ``created`` keep their order.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._rows = list(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Row) -> None:
        """Insert a row by its ``created``: at the end, unless the clock was set back or the row is backdated."""
        insort_right(self._rows, row, key=_created)

    def remove(self, row: Row) -> None:
        """Remove a row."""
        at = bisect_left(self._rows, _created(row), key=_created)
        while self._rows[at] is not row:
            at += 1
        del self._rows[at]

    def age(self, seconds: int) -> None:
        """Backdate every row by a number of seconds."""
        for row in self._rows:
            row["created"] -= seconds

    def down(self, most: float | None = None) -> Iterator[Row]:
        """Walk through the rows, newest first, from the second ``most`` back."""
        end = len(self._rows) if most is None else bisect_right(self._rows, most, key=_created)
        return (self._rows[n] for n in range(end - 1, -1, -1))

    def up(self, least: float | None = None) -> Iterator[Row]:
        """Walk through the rows, oldest first, from the second ``least`` on."""
        begin = 0 if least is None else bisect_left(self._rows, least, key=_created)
        return (self._rows[n] for n in range(begin, len(self._rows)))


def page(
    rows: Timeline,
    params: Mapping[str, Any],
    find: Callable[[str, str], Row],
    url: str,
    rendered: Callable[[Row], Row] = lambda row: row,
    keep: Callable[[Row], bool] = lambda row: True,
    least: float = -math.inf,
) -> Row:
    """Return a page of a list, newest first, as Stripe cuts all of its lists.

    With ``starting_after`` the page holds the rows older than the cursor, with ``ending_before`` those just newer; both are
    newest first (reference, *Pagination*; stripe/stripe-dotnet #2819). A filter on ``created`` beyond the retention finds
    less without any error (airbytehq/airbyte #33678).

    Args:
        rows: all rows of the list.
        params: the parameters of the request.
        find: returns the row of a cursor, given its id and the name of the parameter.
        url: the path of the list.
        rendered: returns a row as the API shows it.
        keep: whether a row is in the list; the cursor need not be.
        least: the second before which no row is listed.

    Raises:
        StripeRefused: the parameters are wrong, or the cursor does not exist.
    """
    limit = _whole(params.get("limit", "10"), "limit")
    if not 1 <= limit <= 100:
        raise StripeRefused(
            400, "This value must be between 1 and 100 (inclusive).", "parameter_invalid_integer", "limit"
        )
    after, before = params.get("starting_after"), params.get("ending_before")
    if after and before:
        raise StripeRefused(
            400, "You can only specify one of these parameters: starting_after, ending_before."
        )
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
    # One of the two bounds ends the walk; the other one only skips rows.
    within = takewhile(
        lambda row: _between(row, -math.inf, most) if before else _between(row, least, math.inf), walk
    )
    wanted = (row for row in within if keep(row) and _between(row, least, most))
    found = list(islice(wanted, limit + 1))
    more = len(found) > limit
    del found[limit:]
    if before:
        found.reverse()
    return {"object": "list", "url": url, "has_more": more, "data": [rendered(row) for row in found]}


def _created(row: Row) -> int:
    return int(row["created"])


def _past(cursor: Row, walk: Iterator[Row]) -> Iterator[Row]:
    """Return the walk from the row after the cursor on."""
    for row in walk:
        if row["id"] == cursor["id"]:
            break
    return walk


def _between(row: Row, least: float, most: float) -> bool:
    return "created" not in row or least <= row["created"] <= most


def _bounds(wanted: Any) -> tuple[float, float]:
    """Return the lowest and the highest ``created`` that a filter lets pass."""
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
        raise StripeRefused(400, f"Invalid integer: {text}", "parameter_invalid_integer", name) from None
