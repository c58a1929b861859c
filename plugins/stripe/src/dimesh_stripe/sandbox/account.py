"""An account: its objects, and the log of what happened to them."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import takewhile
from typing import Any, Final

from dimesh_stripe.descriptions import fields
from dimesh_stripe.resources import RESOURCES
from dimesh_stripe.sandbox.timeline import Refused, Row, Timeline

RETENTION: Final = 30 * 86_400
_OLDEST: Final = 120 * 86_400
"""How long before now the oldest seeded object was made."""
PREFIXES: Final = {
    "balance_transaction": "txn", "charge": "ch", "coupon": "co", "credit_note": "cn", "customer": "cus", "dispute": "dp",
    "invoice": "in",
    "invoiceitem": "ii", "payment_intent": "pi", "payment_method": "pm", "payout": "po", "plan": "plan",
    "price": "price", "product": "prod", "promotion_code": "promo", "quote": "qt", "refund": "re",
    "setup_intent": "seti", "subscription": "sub", "subscription_schedule": "sub_sched", "tax_rate": "txr",
    "topup": "tu", "transfer": "tr",
}  # fmt: skip
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


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
        """Seconds after which a new event, or a row that there are no events of, can be listed; set it to 0 again for those
        that follow.
        """
        self.listeners: list[Callable[[Row], None]] = []
        """Are told each event: webhook endpoints."""
        self._now = now
        self._rng = random.Random(seed)  # noqa: S311 - ids of a sandbox
        self._objects: dict[str, dict[str, Row]] = {name: {} for name in RESOURCES}
        self._lists: dict[str, Timeline] = {name: Timeline() for name in RESOURCES}
        self._deleted: dict[str, Row] = {}
        self._events = Timeline()
        self._late: dict[str, float] = {}
        """From when on rows and events can be listed, of those that came late."""
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
        """A new object; ``id`` and ``created`` may be given. Of some there are never events, whatever ``event`` says."""
        has = fields(name)
        usual: Row = {key: value for key, value in (("livemode", False), ("metadata", {})) if key in has}
        row: Row = {
            "id": params.get("id") or self.new_id(PREFIXES[name]),
            "object": name,
            "created": int(self.now()),
            **usual,
            **params,
        }
        row["created"] = int(row["created"])
        if row["id"] in self._objects[name]:
            raise Refused(400, f"{name.capitalize()} already exists.", "resource_already_exists")
        for nested in RESOURCES[name].nested:
            row.setdefault(nested, [])
        if name == "subscription":
            row.setdefault("status", "active")
        self._objects[name][row["id"]] = row
        self._lists[name].add(row)
        if RESOURCES[name].append_only:
            self._delay(row)
        elif event:
            self._tell(f"{self._prefix(name)}.created", row, None, key)
        return row

    def seed(self, name: str, count: int, each: Callable[[int], Mapping[str, Any]]) -> None:
        """Objects of an account that is not new: they were made in the months before, and Stripe has forgotten the events
        of that.
        """
        now = self.now()
        for n in range(count):
            created = now - _OLDEST + (_OLDEST - RETENTION) * n / count
            self.create(name, {"created": created, **each(n)}, event=False)

    def update(self, name: str, id: str, params: Mapping[str, Any], *, key: str | None = None) -> Row:
        """Change an object; empty texts remove what they name, as in Stripe's API."""
        self._may_change(name)
        row = self.find(name, id)
        before = copy.deepcopy(row)
        _merge(row, params)
        previous = previous_attributes(before, row)
        if previous:
            self._tell(f"{self._prefix(name)}.updated", row, previous, key)
        return row

    def delete(self, name: str, id: str, *, key: str | None = None) -> Row:
        """Delete an object; a subscription is cancelled, and stays."""
        self._may_change(name)
        row = self.find(name, id)
        if RESOURCES[name].never_deleted:
            before = copy.deepcopy(row)
            row["status"] = "canceled"
            self._tell(f"{self._prefix(name)}.deleted", row, previous_attributes(before, row), key)
            return row
        del self._objects[name][id]
        self._lists[name].remove(row)
        self._tell(f"{self._prefix(name)}.deleted", row, None, key)
        self._deleted[id] = {"id": id, "object": name, "deleted": True}
        return self._deleted[id]

    @staticmethod
    def _may_change(name: str) -> None:
        if RESOURCES[name].append_only:
            raise Refused(404, f"Unrecognized request URL: a {name} stays as it is.")

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
        return list(self._lists[name].down())

    def listed(self, name: str) -> Timeline:
        """The same, to cut pages from."""
        return self._lists[name]

    def shown(self, row: Row) -> Row:
        """As the API shows it: of nested lists only the first page."""
        nested = RESOURCES[row["object"]].nested if row["object"] in RESOURCES else ()
        shown = dict(row)
        if "created" not in fields(row["object"]):  # an invoice item's is called its date
            shown["date"] = shown.pop("created")
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
        self._events.add(event)
        self._by_id[event["id"]] = event
        self._delay(event)
        for listener in self.listeners:
            listener(event)
        return event

    def _delay(self, row: Row) -> None:
        if self.late:
            self._late[row["id"]] = self.now() + self.late

    def events(self) -> Iterator[Row]:
        """What can be listed, newest first, as it is asked for."""
        kept = takewhile(self._kept, self._events.down())
        return (event for event in kept if self.visible(event))

    def all_events(self) -> Timeline:
        """Also what cannot be listed yet, or not any more, to cut pages from; :meth:`visible` says which."""
        return self._events

    def visible(self, row: Row) -> bool:
        """Whether an event or object can be listed by now."""
        return self._late.get(row["id"], 0.0) <= self.now() and (row["object"] != "event" or self._kept(row))

    def _kept(self, event: Row) -> bool:
        return bool(event["created"] > self.now() - RETENTION)

    def age(self, seconds: float) -> None:
        """What happened until now happened so much longer ago."""
        self._events.age(int(seconds))

    def event(self, id: str, param: str = "id") -> Row:
        """One event.

        Raises:
            Refused: never was, or is older than 30 days.
        """
        found = self._by_id.get(id)
        if found is None:
            raise Refused(404 if param == "id" else 400, f"No such event: '{id}'", "resource_missing", param)
        if not self._kept(found):
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
