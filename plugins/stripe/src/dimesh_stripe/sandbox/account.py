"""An account: its objects, and the log of their events."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice, takewhile
from typing import Any, Final

from dimesh.sourcekit.sandbox import Row, SimulatedState
from dimesh_stripe.descriptions import api, fields
from dimesh_stripe.sandbox import facts
from dimesh_stripe.sandbox.timeline import StripeRefused, Timeline

RETENTION: Final = 30 * 86_400
"""Seconds for which an event can be listed and retrieved (reference, *Events*)."""
_OLDEST: Final = 120 * 86_400
"""Seconds before now at which the oldest seeded object was created."""


class Account(SimulatedState):
    """The objects and events of one account.

    Args:
        id: the id of the account, ``acct_…``.
        seed: makes the ids repeatable.
        api_version: the version in which new events are rendered: that of the account, whatever a request asks for
            (airbytehq/airbyte PR #77625).
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
        super().__init__(seed=seed, now=now)
        self.id = id
        self.api_version = api_version
        self.late = 0.0
        """The number of seconds after which a new event, or a new row of an object without events, can be listed
        (estuary/connectors #2712, #2731). It applies to what is created from now on; set it back to 0.
        """
        self.silent = False
        """Whether changes make no events: the feed loses them."""
        self.listeners: list[Callable[[Row], None]] = []
        """The functions that are called with each event: those of webhook endpoints."""
        self._objects: dict[str, dict[str, Row]] = {name: {} for name in facts.OBJECTS}
        self._lists: dict[str, Timeline] = {name: Timeline() for name in facts.OBJECTS}
        self._deleted: dict[str, Row] = {}
        self.singles: dict[str, Row] = {}
        """The objects without an id, by path below ``/v1/``."""
        self.plain_payment_methods = True
        """Whether the plain list of payment methods has those of customers. The reference says so today; its older text, that the
        list is for Treasury flows only (airbytehq/airbyte #44891)."""
        self._events = Timeline()
        self._late: dict[str, float] = {}
        """The time from which a late row or event can be listed, by its id."""
        self._by_id: dict[str, Row] = {}
        self.unlisted: set[str] = set()
        """The ids of objects that lists leave out although they can be read, as with inline prices (reference, *List all
        prices*)."""
        self.idempotent: dict[str, tuple[Any, int, Row]] = {}
        """The request, status and answer of each idempotency key."""

    def new_id(self, prefix: str) -> str:
        """Return a new id."""
        return f"{prefix}_{self.random_text(24)}"

    # -- objects -----------------------------------------------------------------------------------

    def create(
        self, name: str, params: Mapping[str, Any], *, key: str | None = None, event: bool = True
    ) -> Row:
        """Create an object; ``id`` and ``created`` may be given. Some objects have no events, whatever ``event`` is."""
        has = fields(name)
        usual: Row = {key: value for key, value in (("livemode", False), ("metadata", {})) if key in has}
        row: Row = {
            "id": params.get("id") or self.new_id(facts.PREFIXES.get(name, name.rpartition(".")[2])),
            "object": name,
            "created": int(self.now()),
            **usual,
            **params,
        }
        row["created"] = int(row["created"])
        if _index(row) in self._objects[name]:
            raise StripeRefused(400, f"{name.capitalize()} already exists.", "resource_already_exists")
        for nested in facts.NESTED.get(name, ()):
            row.setdefault(nested, [])
        if name == "subscription":
            row.setdefault("status", "active")
        self._objects[name][_index(row)] = row
        self._lists[name].add(row)
        if name in facts.UNCHANGED:
            self._delay(row)
        elif event:
            self._record(facts.FIRST.get(name) or f"{_family(row)}.created", row, None, key)
        return row

    def seed(self, name: str, count: int, each: Callable[[int], Mapping[str, Any]]) -> None:
        """Create the objects of an account that is not new: they date from the months before, and Stripe no longer keeps
        their events.
        """
        now = self.now()
        for n in range(count):
            created = now - _OLDEST + (_OLDEST - RETENTION) * n / count
            self.create(name, {"created": created, **each(n)}, event=False)

    def update(
        self, name: str, id: str, params: Mapping[str, Any], *, key: str | None = None, event: bool = True
    ) -> Row:
        """Change an object; an empty text removes the field (reference, *Update a customer*).

        Some objects have no ``updated``: they tell only of some new states, and all other changes are silent (list of event
        types; stripe-node #937). Without ``event``, no change tells.
        """
        row = self.find(name, id)
        before = self._as_in_events(row)
        _merge(row, params)
        previous = previous_attributes(before, self._as_in_events(row))
        kinds = [f"{_family(row)}.updated"]
        if "status" in previous:
            kinds.append(f"{_family(row)}.{row['status']}")
        kind = next((kind for kind in kinds if kind in facts.EVENTS), None)
        if kind is not None and previous and event:
            self._record(kind, row, previous, key)
        return row

    def set_single(self, path: str, params: Mapping[str, Any], event: str = "") -> Row:
        """Replace an object without an id at a path, such as ``balance``, and log an event of it."""
        row = self.singles[path] = {**params, "object": facts.SINGLES[_template(path)]}
        if event:
            self.log(event, {"object": copy.deepcopy(row)})
        return row

    def delete(self, name: str, id: str, *, key: str | None = None) -> Row:
        """Delete an object. A subscription is cancelled instead, and can still be read (reference, *Cancel a subscription*)."""
        row = self.find(name, id)
        if name in facts.ENDS:
            before = copy.deepcopy(row)
            row["status"] = "canceled"
            self._record(f"{_family(row)}.deleted", row, previous_attributes(before, row), key)
            return row
        del self._objects[name][_index(row)]
        self._lists[name].remove(row)
        self._record(f"{_family(row)}.deleted", row, None, key)
        stump = {"id": id, "object": name, "deleted": True}
        if name in facts.STUMPS:
            self._deleted[id] = stump
        return stump

    def find(self, name: str, id: str, param: str = "id") -> Row:
        """Return an object that is not deleted.

        Raises:
            StripeRefused: there is none: 404, or 400 for the cursor of a list.
        """
        row = self._objects[name].get(id)
        if row is None:
            raise StripeRefused(
                404 if param == "id" else 400, f"No such {name}: '{id}'", "resource_missing", param
            )
        return row

    def retrieve(self, name: str, id: str, expand: Collection[str] = ()) -> Row:
        """Return an object; of some deleted ones, id and ``deleted`` are left (reference, *Retrieve a customer*)."""
        found = self._deleted.get(id)
        if found is not None and found["object"] == name:
            return found
        return self.rendered(self.find(name, id), expand)

    def entry(self, name: str, id: str) -> Row:
        """Return an entry of a list in a row.

        Raises:
            StripeRefused: there is none.
        """
        place = facts.ENTRIES[name]
        for owner in self._objects[place.owner].values():
            for found in owner[place.field]:
                if found["id"] == id:
                    return {"object": name, **found}
        raise StripeRefused(404, f"No such {name}: '{id}'", "resource_missing", "id")

    def has(self, name: str, id: str) -> bool:
        """Return whether there is such an object."""
        return id in self._objects[name] or self._deleted.get(id, {}).get("object") == name

    def cursor(self, names: Sequence[str], id: str, wanted: Row, param: str) -> Row:
        """Return the row of a cursor, which may be of any of the kinds on a list."""
        name = next((name for name in names if self.has(name, id)), names[0])
        parent = facts.IN_PARENT.get(name)
        return self.find(name, f"{wanted[parent]}/{id}" if parent else id, param)

    def merged(self, names: Sequence[str]) -> Timeline:
        """Return the objects of several kinds, to cut pages from."""
        rows = [row for name in names for row in self._lists.get(name, Timeline()).up()]
        return Timeline(sorted(rows, key=lambda row: int(row["created"])))

    def entries(self, name: str, id: str, field: str) -> list[Row]:
        """Return the entries of a list in an object."""
        return self._entries(self.find(name, id), field)

    def rows(self, name: str) -> list[Row]:
        """Return all objects, newest first."""
        return list(self._lists[name].down())

    def newest(self, name: str, most: int) -> list[Row]:
        """Return the newest objects."""
        return list(islice(self._lists[name].down(), most))

    def listed(self, name: str) -> Timeline:
        """Return all objects, to cut pages from."""
        return self._lists[name]

    def rendered(self, row: Row, expand: Collection[str] = (), event: bool = False) -> Row:
        """Return an object as the API shows it: a nested list has at most ten entries (airbytehq/airbyte #85087), and some fields
        must be asked for.
        """
        name, rendered = row["object"], dict(row)
        known = fields(name)
        if known and "created" not in known:
            when = rendered.pop("created")
            if "date" in known:
                rendered["date"] = when
        rendered.pop(facts.UNNAMED.get(name, ""), None)
        hidden = set(facts.HIDDEN.get(name, ())) - set(expand)
        if event and name == "charge" and self.api_version < facts.REFUNDS_UNTIL:
            hidden.discard("refunds")
        path = next(
            (p for p, entry in api()["lists"].items() if entry["objects"] == [name] and "{" not in p), ""
        )
        for field in facts.NESTED.get(name, ()):
            if field in hidden:
                continue
            items = self._entries(row, field)
            rendered[field] = {
                "object": "list",
                "data": items[:10],
                "has_more": len(items) > 10,
                "url": f"/v1/{path}/{row['id']}/{field}",
            }
        for field in facts.HIDDEN.get(name, ()):
            if field in hidden:
                rendered.pop(field, None)
            else:
                rendered.setdefault(field, None)
        return rendered

    def _entries(self, row: Row, field: str) -> list[Row]:
        """Return the entries of a list in a row; the lists of a customer are those of its tables."""
        kinds = _TABLES.get((row["object"], field))
        if kinds is None:
            return list(row[field])
        mine = [r for kind in kinds for r in self._lists[kind].down() if r.get("customer") == row["id"]]
        return [self.rendered(found) for found in mine]

    def _as_in_events(self, row: Row) -> Row:
        """Return a copy of an object with the fields that its events have; nested lists are plain lists."""
        hidden = facts.HIDDEN.get(row["object"], ())
        return copy.deepcopy({name: value for name, value in row.items() if name not in hidden})

    # -- events ------------------------------------------------------------------------------------

    def _record(self, kind: str, row: Row, previous: Row | None, key: str | None) -> None:
        """Log an event, if there are events of this type."""
        if self.silent or kind not in facts.EVENTS:
            return
        data: Row = {"object": copy.deepcopy(self.rendered(row, event=True))}
        if previous is not None:
            data["previous_attributes"] = previous
        self.log(kind, data, key)

    def log(self, kind: str, data: Row, key: str | None = None) -> Row:
        """Append an event to the log, and call the listeners."""
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
        """Walk through the events that can be listed, newest first."""
        kept = takewhile(self._kept, self._events.down())
        return (event for event in kept if self.visible(event))

    def all_events(self) -> Timeline:
        """Return all events, to cut pages from; :meth:`visible` excludes those that cannot be listed yet or any longer."""
        return self._events

    def visible(self, row: Row) -> bool:
        """Return whether an event or object can be listed now."""
        if row["id"] in self.unlisted:
            return False
        return self._late.get(row["id"], 0.0) <= self.now() and (row["object"] != "event" or self._kept(row))

    def _kept(self, event: Row) -> bool:
        return bool(event["created"] > self.now() - RETENTION)

    def age(self, seconds: float) -> None:
        """Backdate every event by a number of seconds."""
        self._events.age(int(seconds))

    def event(self, id: str, param: str = "id") -> Row:
        """Return one event.

        Raises:
            StripeRefused: there is none, or it is older than 30 days; the message is that of Stripe.
        """
        found = self._by_id.get(id)
        if found is None:
            raise StripeRefused(
                404 if param == "id" else 400, f"No such event: '{id}'", "resource_missing", param
            )
        if not self._kept(found):
            raise StripeRefused(
                400,
                f"The event '{id}' is no longer available because it's aged out of our retention policy.",
                None,
                param,
            )
        return found


_TABLES: Final = {
    ("customer", "sources"): ("card", "bank_account", "source"),
    ("customer", "subscriptions"): ("subscription",),
    ("customer", "tax_ids"): ("tax_id",),
}
"""The tables of the entries of a customer's lists."""


def _index(row: Row) -> str:
    """Return the key of an object among those of its kind."""
    parent = facts.IN_PARENT.get(row["object"])
    return f"{row.get(parent)}/{row['id']}" if parent else str(row["id"])


def _family(row: Row) -> str:
    """Return what stands before the verb in the types of an object's events."""
    name = str(row["object"])
    if name in ("card", "bank_account"):
        return "customer.source" if row.get("customer") else "account.external_account"
    return facts.FAMILIES.get(name, name)


def _template(path: str) -> str:
    found = facts.find(facts.READS, path)
    assert found is not None, path
    return found[0]


def previous_attributes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Row:
    """Return the old values of changed fields, as an event holds them: objects in part, lists whole, null for a field that was
    added (reference, *Events*; recorded), and an empty object where it was empty (recorded).
    """
    found: Row = {}
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        if old == new and (name in before) == (name in after):
            continue
        if isinstance(old, dict) and old and isinstance(new, dict):
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
