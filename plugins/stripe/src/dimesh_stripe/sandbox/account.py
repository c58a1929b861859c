"""An account: its objects, and the log of what happened to them."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from dimesh_stripe.resources import RESOURCES

RETENTION: Final = 30 * 86_400
PREFIXES: Final = {
    "charge": "ch", "coupon": "co", "credit_note": "cn", "customer": "cus", "dispute": "dp", "invoice": "in",
    "invoiceitem": "ii", "payment_intent": "pi", "payment_method": "pm", "payout": "po", "plan": "plan",
    "price": "price", "product": "prod", "promotion_code": "promo", "quote": "qt", "refund": "re",
    "setup_intent": "seti", "subscription": "sub", "subscription_schedule": "sub_sched", "tax_rate": "txr",
    "topup": "tu", "transfer": "tr",
}  # fmt: skip
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
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


class Account:
    """Objects and events of one account.

    Args:
        id: ``acct_…``.
        seed: of the ids, so that a run can be repeated.
        api_version: what new events are rendered in.
        now: the clock; :attr:`skew` moves it.
    """

    def __init__(
        self,
        id: str = "acct_sandbox",
        *,
        seed: int = 0,
        api_version: str = "2026-06-24.dahlia",
        now: Callable[[], float] = time.time,
    ) -> None:
        self.id = id
        self.api_version = api_version
        self.skew = 0.0
        """Seconds that the account's clock is ahead."""
        self.late = 0.0
        """Seconds after which a new event can be listed; set it to 0 again for those that follow."""
        self.listeners: list[Callable[[Row], None]] = []
        """Are told each event: webhook endpoints."""
        self._now = now
        self._rng = random.Random(seed)  # noqa: S311 - ids of a sandbox
        self._objects: dict[str, dict[str, Row]] = {name: {} for name in RESOURCES}
        self._deleted: dict[str, Row] = {}
        self._events: list[tuple[Row, float]] = []
        """Each with the time from which it can be listed."""
        self._by_id: dict[str, Row] = {}
        self.idempotent: dict[str, tuple[Any, int, Row]] = {}

    def now(self) -> float:
        """The account's time."""
        return self._now() + self.skew

    def new_id(self, prefix: str) -> str:
        """An id that nobody had."""
        return f"{prefix}_{''.join(self._rng.choices(_ALPHABET, k=24))}"

    # -- objects -----------------------------------------------------------------------------------

    def create(
        self, name: str, params: Mapping[str, Any], *, key: str | None = None, event: bool = True
    ) -> Row:
        """A new object; ``id`` and ``created`` may be given."""
        row: Row = {
            "id": params.get("id") or self.new_id(PREFIXES[name]),
            "object": name,
            "created": int(self.now()),
            "livemode": False,
            "metadata": {},
            **params,
        }
        if row["id"] in self._objects[name]:
            raise Refused(400, f"{name.capitalize()} already exists.", "resource_already_exists")
        for nested in RESOURCES[name].nested:
            row.setdefault(nested, [])
        if name == "subscription":
            row.setdefault("status", "active")
        self._objects[name][row["id"]] = row
        if event:
            self._tell(f"{self._prefix(name)}.created", row, None, key)
        return row

    def update(self, name: str, id: str, params: Mapping[str, Any], *, key: str | None = None) -> Row:
        """Change an object; empty texts remove what they name, as in Stripe's API."""
        row = self.find(name, id)
        before = copy.deepcopy(row)
        _merge(row, params)
        previous = previous_attributes(before, row)
        if previous:
            self._tell(f"{self._prefix(name)}.updated", row, previous, key)
        return row

    def delete(self, name: str, id: str, *, key: str | None = None) -> Row:
        """Delete an object; a subscription is cancelled, and stays."""
        row = self.find(name, id)
        if RESOURCES[name].never_deleted:
            before = copy.deepcopy(row)
            row["status"] = "canceled"
            self._tell(f"{self._prefix(name)}.deleted", row, previous_attributes(before, row), key)
            return row
        del self._objects[name][id]
        self._tell(f"{self._prefix(name)}.deleted", row, None, key)
        self._deleted[id] = {"id": id, "object": name, "deleted": True}
        return self._deleted[id]

    def find(self, name: str, id: str, param: str = "id") -> Row:
        """A live object."""
        row = self._objects[name].get(id)
        if row is None:
            raise Refused(404 if param == "id" else 400, f"No such {name}: '{id}'", "resource_missing", param)
        return row

    def retrieve(self, name: str, id: str) -> Row:
        """An object, or the stump of a deleted one."""
        found = self._deleted.get(id)
        return found if found is not None and found["object"] == name else self.shown(self.find(name, id))

    def rows(self, name: str) -> list[Row]:
        """All live objects, newest first."""
        newest_first = list(self._objects[name].values())
        newest_first.reverse()
        return sorted(newest_first, key=lambda row: -row["created"])

    def shown(self, row: Row) -> Row:
        """As the API shows it: of nested lists only the first page."""
        nested = RESOURCES[row["object"]].nested if row["object"] in RESOURCES else ()
        shown = dict(row)
        for name in nested:
            items = row[name]
            shown[name] = {
                "object": "list",
                "data": items[:10],
                "has_more": len(items) > 10,
                "url": f"/v1/{RESOURCES[row['object']].path}/{row['id']}/{name}",
            }
        return shown

    @staticmethod
    def _prefix(name: str) -> str:
        return RESOURCES[name].types[0].removesuffix(".*")

    # -- events ------------------------------------------------------------------------------------

    def _tell(self, kind: str, row: Row, previous: Row | None, key: str | None) -> None:
        data: Row = {"object": copy.deepcopy(self.shown(row))}
        if previous is not None:
            data["previous_attributes"] = previous
        self.log(kind, data, key)

    def log(self, kind: str, data: Row, key: str | None = None) -> Row:
        """Append an event."""
        event: Row = {
            "id": self.new_id("evt"),
            "object": "event",
            "api_version": self.api_version,
            "created": int(self.now()),
            "data": data,
            "livemode": False,
            "pending_webhooks": len(self.listeners),
            "request": {"id": self.new_id("req"), "idempotency_key": key},
            "type": kind,
        }
        self._events.append((event, self.now() + self.late))
        self._by_id[event["id"]] = event
        for listener in self.listeners:
            listener(event)
        return event

    def events(self) -> list[Row]:
        """What can be listed, newest first."""
        now = self.now()
        found = [
            e for e, visible in reversed(self._events) if visible <= now and e["created"] > now - RETENTION
        ]
        return sorted(found, key=lambda event: -event["created"])

    def age(self, seconds: float) -> None:
        """What happened until now happened so much longer ago."""
        for event, _ in self._events:
            event["created"] -= int(seconds)

    def event(self, id: str, param: str = "id") -> Row:
        """One event.

        Raises:
            Refused: never was, or is older than 30 days.
        """
        found = self._by_id.get(id)
        if found is None:
            raise Refused(404 if param == "id" else 400, f"No such event: '{id}'", "resource_missing", param)
        if found["created"] <= self.now() - RETENTION:
            raise Refused(
                400,
                f"The event '{id}' is no longer available because it's aged out of our retention policy.",
                None,
                param,
            )
        return found


def previous_attributes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Row:
    """What an event says of the state before: old values of changed keys, nested ones in part, lists whole; a key that was
    added appears with null.
    """
    found: Row = {}
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        if old == new and (name in before) == (name in after):
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            found[name] = previous_attributes(old, new)
        else:
            found[name] = copy.deepcopy(old)
    return found


def _merge(row: Row, params: Mapping[str, Any]) -> None:
    for name, value in params.items():
        old = row.get(name)
        if isinstance(value, Mapping) and isinstance(old, dict):
            _merge(old, value)
        elif value == "" and name != "description":
            row.pop(name, None) if name not in ("email", "name") else row.update({name: None})
        else:
            row[name] = value


def page(
    rows: Iterable[Row],
    params: Mapping[str, Any],
    find: Callable[[str, str], Row],
    url: str,
    shown: Callable[[Row], Row] = lambda row: row,
) -> Row:
    """A page of a list, newest first, as all of Stripe's lists are cut.

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
    kept = [row for row in rows if _created(row, params.get("created"))]
    if after or before:
        cursor = str(after or before)
        find(cursor, "starting_after" if after else "ending_before")
        position = next((n for n, row in enumerate(kept) if row["id"] == cursor), None)
        if position is None:
            # It is there, and not among what the filters leave: its place is by its time.
            moment = find(cursor, "starting_after")["created"]
            position = next((n for n, row in enumerate(kept) if row["created"] < moment), len(kept))
            older, newer = kept[position:], kept[:position]
        else:
            older, newer = kept[position + 1 :], kept[:position]
        found = older[:limit] if after else newer[-limit:]
        more = len(older if after else newer) > limit
    else:
        found, more = kept[:limit], len(kept) > limit
    return {"object": "list", "url": url, "has_more": more, "data": [shown(row) for row in found]}


def _created(row: Mapping[str, Any], wanted: Any) -> bool:
    if wanted is None:
        return True
    created = row["created"]
    if not isinstance(wanted, Mapping):
        return bool(created == _whole(wanted, "created"))
    tests: dict[str, Callable[[int], bool]] = {
        "gt": lambda n: created > n,
        "gte": lambda n: created >= n,
        "lt": lambda n: created < n,
        "lte": lambda n: created <= n,
    }
    return all(
        tests[name](_whole(value, f"created[{name}]")) for name, value in wanted.items() if name in tests
    )


def _whole(text: Any, name: str) -> int:
    try:
        return int(text)
    except (TypeError, ValueError):
        raise Refused(400, f"Invalid integer: {text}", "parameter_invalid_integer", name) from None
