"""The v2 side of an account: objects whose events are thin.

Reference, *v2 events*: times are RFC 3339, lists are followed by ``next_page_url``, and a notification names the changed
object without holding it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from dimesh.sourcekit.sandbox import Row
from dimesh_stripe.sandbox.account import Account
from dimesh_stripe.sandbox.timeline import StripeRefused
from dimesh_stripe.v2 import V2

_BY_PATH = {resource.path: resource for resource in V2.values()}


class V2Objects:
    """The objects of the v2 API, and their events.

    Args:
        account: gives clock and ids.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self._rows: dict[str, dict[str, Row]] = {name: {} for name in V2}
        self._events: list[Row] = []
        self.listeners: list[Callable[[Row], None]] = []
        """The functions that are called with each thin notification."""

    def create(self, kind: str, fields: Mapping[str, Any]) -> Row:
        """Create an object."""
        row = {"id": self._account.new_id("v2obj"), "object": kind, "created": self._now(), **fields}
        self._rows[kind][row["id"]] = row
        self._record(f"{kind}.created", row)
        return row

    def update(self, kind: str, id: str, fields: Mapping[str, Any]) -> None:
        """Change an object."""
        row = self._find(kind, id)
        row.update(fields)
        self._record(f"{kind}.updated", row)

    def delete(self, kind: str, id: str) -> None:
        """Delete an object."""
        row = self._find(kind, id)
        del self._rows[kind][id]
        self._record(f"{kind}.deleted", row)

    def rows(self, kind: str) -> list[Row]:
        """Return all objects of a kind."""
        return list(self._rows[kind].values())

    def _find(self, kind: str, id: str) -> Row:
        found = self._rows[kind].get(id)
        if found is None:
            raise StripeRefused(404, f"No such object: '{id}'", "not_found")
        return found

    def _now(self) -> str:
        moment = datetime.fromtimestamp(self._account.now(), UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _record(self, kind: str, row: Row) -> None:
        resource = V2[row["object"]]
        event = {
            "id": self._account.new_id("evt_test"),
            "object": "v2.core.event",
            "type": kind,
            "created": self._now(),
            "livemode": False,
            "context": None,
            "reason": {
                "type": "request",
                "request": {"id": self._account.new_id("req"), "idempotency_key": None},
            },
            "related_object": {
                "id": row["id"],
                "type": row["object"],
                "url": f"/v2/{resource.path}/{row['id']}",
            },
        }
        self._events.append(event)
        for listener in self.listeners:
            listener({**event, "object": "v2.core.event"})

    # -- the API -----------------------------------------------------------------------------------

    def answer(self, path: str, params: Mapping[str, Any]) -> Row:
        """Answer a GET below ``/v2/``.

        Raises:
            StripeRefused: there is no such object or path.
        """
        if path == "core/events":
            return self._list_events(params)
        if path.startswith("core/events/"):
            id = path.rpartition("/")[2]
            found = next((event for event in self._events if event["id"] == id), None)
            if found is None:
                raise StripeRefused(404, f"No such event: '{id}'", "not_found")
            return {**found, "changes": None, "data": None}
        if path in _BY_PATH:
            return self._page(self.rows(_BY_PATH[path].name), f"/v2/{path}", params)
        parent, _, id = path.rpartition("/")
        if parent in _BY_PATH:
            return copy.deepcopy(self._find(_BY_PATH[parent].name, id))
        raise StripeRefused(404, f"Unrecognized request URL (GET: /v2/{path}).", "not_found")

    def _list_events(self, params: Mapping[str, Any]) -> Row:
        since = (params.get("created") or {}).get("gt")
        lowest = datetime.fromisoformat(since) if since else datetime.min.replace(tzinfo=UTC)
        wanted = [e for e in reversed(self._events) if datetime.fromisoformat(e["created"]) > lowest]
        more = {"created[gt]": since} if since else {}
        return self._page(wanted, "/v2/core/events", params, more)

    @staticmethod
    def _page(
        rows: list[Row], url: str, params: Mapping[str, Any], more: Mapping[str, str] | None = None
    ) -> Row:
        limit, begin = int(params.get("limit", 20)), int(params.get("page", 0))

        def at(place: int) -> str:
            return f"{url}?{urlencode({**(more or {}), 'limit': limit, 'page': place})}"

        return {
            "data": copy.deepcopy(rows[begin : begin + limit]),
            "next_page_url": at(begin + limit) if begin + limit < len(rows) else None,
            "previous_page_url": at(max(begin - limit, 0)) if begin else None,
        }
