"""The incremental exports of the sandbox."""

from __future__ import annotations

import base64
import binascii
import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from dimesh.sourcekit.sandbox import Row
from dimesh_zendesk.sandbox.account import Account, ZendeskRefused

FULL: Final = 1_000
_CURSOR: Final = re.compile(r"(\d+)\.0\|\|(\d+)\|(\d*)")


class ExportLimit:
    """Counts the export requests of the whole account, by the minute. The count is in no header (recorded: answers of exports
    show the limit of the plan).

    Args:
        now: the time.
        most: the number of requests per minute.
    """

    def __init__(self, now: Callable[[], float], most: int) -> None:
        self.most = most
        self.refused = 0
        self._now = now
        self._times: deque[float] = deque()

    def count(self, requests: int = 1) -> None:
        """Count requests, of any integration of the account.

        Raises:
            ZendeskRefused: there are too many.
        """
        now = self._now()
        while self._times and not now - 60 < self._times[0] <= now:
            self._times.popleft()
        if len(self._times) + requests > self.most:
            self.refused += 1
            wait = max(int(self._times[0] + 60 - now) + 1, 1) if self._times else 60
            text = "Number of allowed incremental export API requests per minute exceeded"
            raise ZendeskRefused(429, "APIRateLimitExceeded", text, {"retry-after": str(wait)})
        self._times.extend([now] * requests)


class Exports:
    """Answers the exports of an account.

    Args:
        account: the account.
        hold_back: the number of seconds for which changes are held back (reference: a minute).
    """

    def __init__(self, account: Account, hold_back: float = 60.0) -> None:
        self.hold_back = hold_back
        self.events_lag = 0.0
        """The number of seconds by which ticket events lag behind their tickets (unconfirmed)."""
        self.epoch = 0
        """The number of times that all cursors became invalid (no source: nothing says how long Zendesk accepts one)."""
        self._account = account

    def cursor(self, object: str, params: Mapping[str, str], url: str, stuck: bool = False) -> Row:
        """Answer a cursor based export: sorted by time and id, with the last pair as the cursor (recorded).

        Raises:
            ZendeskRefused: the start is too recent, or the cursor is none.
        """
        account = self._account
        size = _size(params)
        given = params.get("cursor")
        if given is not None:
            stamp, after = self._decoded(given)
        else:
            stamp, after = self._start(params), -1
        table = account.tables[object]
        found: list[Row] = []
        more = False
        for when, id in table.changed(stamp, after, account.now() - self.hold_back):
            row = table.get(id)
            if row is None or (params.get("exclude_deleted") == "true" and row.get("status") == "deleted"):
                continue
            if (
                object == "tickets"
                and params.get("support_type_scope", "agent") == "agent"
                and row.get("support_type") == "ai_agent"
            ):
                continue  # the default leaves them out (reference)
            if len(found) == size:
                more = True
                break
            found.append(row)
            stamp, after = when, id
        # Whether an export that never had a row has a cursor is unconfirmed; a recorded one is null.
        last = self._encoded(stamp, after) if found else given
        if stuck:
            last, more = given, True
        answer: Row = {
            object: found,
            "after_url": f"{url}/api/v2/incremental/{object}/cursor.json?cursor={last}&per_page={size}"
            if last
            else None,
            "before_url": None,
            "after_cursor": last,
            "before_cursor": None,
            "end_of_stream": not more,
        }
        if object == "tickets" and "metric_sets" in params.get("include", ""):
            answer["metric_sets"] = [self._metrics(row) for row in found]
        return answer

    def _metrics(self, row: Row) -> Row | None:
        if row["status"] == "deleted":
            return None
        return {
            "id": row["id"] * 10, "ticket_id": row["id"], "created_at": row["created_at"], "updated_at": row["updated_at"],
            "reopens": 0, "replies": len(self._account.comments.get(row["id"], ())),
        }  # fmt: skip

    def timed(self, object: str, params: Mapping[str, str], url: str) -> Row:
        """Answer a time based export. A page ends with a second unless it is full; ``end_time`` is then the next second, and
        that of the last row otherwise (recorded).
        """
        account = self._account
        size = _size(params)
        start = self._start(params)
        until = account.now() - self.hold_back
        found: list[Row] = []
        last: int | None = None
        more = False
        for when, row in self._since(object, start, until, params):
            if len(found) >= FULL or (len(found) >= size and when != last):
                more = True
                break
            found.append(row)
            last = when
        end_time = start if last is None else last
        if more and len(found) < FULL and last is not None:
            end_time = last + 1
        return {
            object: found, "count": len(found), "end_of_stream": not more, "end_time": end_time,
            "next_page": f"{url}/api/v2/incremental/{object}.json?start_time={end_time}&per_page={size}",
        }  # fmt: skip

    def _since(
        self, object: str, start: int, until: float, params: Mapping[str, str]
    ) -> list[tuple[int, Row]]:
        account = self._account
        if object == "ticket_events":
            last = until - self.events_lag
            rows = [(row["timestamp"], row) for row in account.events if start <= row["timestamp"] <= last]
            if "comment_events" not in params.get("include", ""):
                rows = [(when, _without_bodies(row)) for when, row in rows]
            return sorted(rows, key=lambda pair: pair[0])
        table = account.tables[object]
        found = []
        for when, id in table.changed(start, -1, until):
            row = table.get(id)
            if row is not None and account.is_shown(id):
                found.append((when, row))
        return found

    def _start(self, params: Mapping[str, str]) -> int:
        try:
            start = int(params["start_time"])
        except (KeyError, ValueError):
            raise ZendeskRefused(400, "InvalidValue", "Missing or invalid start_time") from None
        if start > self._account.now() - self.hold_back:
            text = f"Too recent start_time. Use a start_time older than {self.hold_back:g} seconds"
            raise ZendeskRefused(422, "InvalidValue", text)
        return start

    def _encoded(self, stamp: int, id: int) -> str:
        return base64.b64encode(f"{stamp}.0||{id}|{self.epoch or ''}".encode()).decode()

    def _decoded(self, cursor: str) -> tuple[int, int]:
        try:
            match = _CURSOR.fullmatch(base64.b64decode(cursor, validate=True).decode())
        except (binascii.Error, UnicodeDecodeError, ValueError):
            match = None
        if match is None or int(match[3] or 0) != self.epoch:
            raise ZendeskRefused(400, "InvalidValue", "Invalid cursor")
        return int(match[1]), int(match[2])


def _without_bodies(row: Row) -> Row:
    bodies = ("body", "html_body")
    children = [{n: v for n, v in child.items() if n not in bodies} for child in row["child_events"]]
    return {**row, "child_events": children}


def _size(params: Mapping[str, str]) -> int:
    text = params.get("per_page", str(FULL))
    return max(1, min(int(text), FULL)) if text.isdigit() else FULL
