"""What a Zendesk account holds, and how it changes."""

from __future__ import annotations

import bisect
import copy
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from dimesh.sourcekit.sandbox import Refused, Row, SimulatedState
from dimesh_zendesk.sandbox import facts

_FIRST: Final = 1_000
_SEED_STEP: Final = 1
"""The number of seconds between two seeded rows."""
_MONTH: Final = 30 * 86_400


class ZendeskRefused(Refused):
    """A request that Zendesk answers with an error.

    Args:
        status: the HTTP status.
        error: the field ``error``: a text or an object.
        description: the field ``description``; None: there is none.
        headers: more headers.
    """

    def __init__(
        self,
        status: int,
        error: Any,
        description: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, str(error))
        self.body: Row = {"error": error, **({"description": description} if description is not None else {})}
        self.headers = dict(headers or {})


def not_found() -> ZendeskRefused:
    """Return the answer for a row that does not exist (recorded)."""
    return ZendeskRefused(404, "RecordNotFound", "Not found")


def iso(seconds: float) -> str:
    """Return a time as Zendesk writes it."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Table:
    """The rows of one object, in the order of their last change.

    Rows that were seeded are made when they are read: a sandbox may have a million.
    """

    def __init__(self, make: Callable[[int, int], Row]) -> None:
        self.rows: dict[int, Row] = {}
        self.stamps: dict[int, int] = {}
        self._order: list[tuple[int, int]] = []
        self._make = make
        self._first, self._count, self._began = 0, 0, 0

    def seed(self, first: int, count: int, began: int) -> None:
        """Add rows with ids from ``first`` on, which were created one second after the other."""
        if self._count or self.rows:
            raise ValueError("seed rows once, before others are made")
        self._first, self._count, self._began = first, count, began

    def __len__(self) -> int:
        return self._count + sum(1 for id in self.rows if not self._seeded(id))

    def _seeded(self, id: int) -> bool:
        return self._first <= id < self._first + self._count

    def get(self, id: int) -> Row | None:
        """Return a row; None if there is none."""
        found = self.rows.get(id)
        if found is None and self._seeded(id) and id not in self.stamps:
            return self._make(id, self._stamp_of_seed(id))
        return found

    def own(self, id: int) -> Row:
        """Return a row that may be changed.

        Raises:
            ZendeskRefused: there is none.
        """
        found = self.get(id)
        if found is None:
            raise not_found()
        return self.rows.setdefault(id, found)

    def put(self, id: int, row: Row, stamp: int) -> None:
        """Store a row at a time."""
        self.rows[id] = row
        if self.stamps.get(id) != stamp:
            self.stamps[id] = stamp
            bisect.insort(self._order, (stamp, id))

    def drop(self, id: int) -> None:
        """Remove a row, without a trace."""
        self.rows.pop(id, None)
        self.stamps[id] = -1

    def _stamp_of_seed(self, id: int) -> int:
        return self._began + (id - self._first) * _SEED_STEP

    def ids(self) -> Iterator[int]:
        """Yield all ids, smallest first."""
        seeds = (n for n in range(self._first, self._first + self._count) if self.get(n) is not None)
        others = sorted(id for id in self.rows if not self._seeded(id))
        return itertools.chain(seeds, others)

    def changed(self, stamp: int, after: int, until: float) -> Iterator[tuple[int, int]]:
        """Yield the time and id of rows that changed last at a time from ``stamp`` on, in order.

        Args:
            stamp: the time.
            after: at that time, only ids after this one.
            until: the last time.
        """
        begin = max(stamp - self._began, 0) // _SEED_STEP if self._count else 0
        for number in range(begin, self._count):
            id = self._first + number
            when = self._stamp_of_seed(id)
            if when > until:
                break
            if id not in self.stamps and (when, id) > (stamp, after):
                yield when, id
        for at in range(bisect.bisect_right(self._order, (stamp, after)), len(self._order)):
            when, id = self._order[at]
            if when > until:
                break
            if self.stamps.get(id) == when and id in self.rows:
                yield when, id


class Account(SimulatedState):
    """An account: tickets with their events, users, organizations, and what administrators configure.

    Args:
        seed: makes what looks random repeatable.
        now: the clock.
    """

    def __init__(self, *, seed: int = 0, now: Callable[[], float] = time.time) -> None:
        super().__init__(seed=seed, now=now)
        self.tables: dict[str, Table] = {name: Table(self._maker(name)) for name in facts.OBJECTS}
        self.events: list[Row] = []
        """The ticket events, oldest first."""
        self.comments: dict[int, list[Row]] = {}
        self.audits: dict[int, list[Row]] = {}
        self.identities: dict[int, list[Row]] = {}
        self.side_conversations: dict[int, list[Row]] = {}
        self.archived: set[int] = set()
        self.late: dict[int, float] = {}
        """When a row of a late list appears, by id."""
        self.owners: dict[tuple[str, int], int] = {}
        """The only user that sees a row, by object and id."""
        self.previous: dict[int, str] = {}
        """The status that a deleted ticket had."""
        self.events_of_deletes = True
        """Whether deletes and restores have ticket events (unconfirmed)."""
        self.listeners: list[Callable[[str, Row, Row], None]] = []
        """Called with the type of an event, the row and what changed."""
        self._jobs: list[tuple[float, Callable[[], None]]] = []
        self._ids = itertools.count(_FIRST)
        self._scrubs: list[tuple[int, int]] = []

    def _maker(self, name: str) -> Callable[[int, int], Row]:
        def make(id: int, stamp: int) -> Row:
            row = {
                **copy.deepcopy(dict(facts.TEMPLATES.get(name, {}))), "id": id, "created_at": iso(stamp), "updated_at":
                iso(stamp),
            }  # fmt: skip
            if name == "tickets":
                row |= {
                    "generated_timestamp": stamp,
                    "subject": f"Ticket {id}",
                    "raw_subject": f"Ticket {id}",
                }
            elif "name" in row:
                row["name"] = f"{name[:-1].capitalize()} {id}"
            return row

        return make

    def new_id(self) -> int:
        """Return an id that nothing else has."""
        return next(self._ids)

    def seed(self, object: str, count: int) -> None:
        """Let rows exist that were created in the months before, one a second."""
        if count:
            first = next(self._ids)
            self._ids = itertools.count(first + count + 1)
            began = int(self.now()) - _MONTH - count * _SEED_STEP
            self.tables[object].seed(first, count, began)

    # -- rows --------------------------------------------------------------------------------------

    def rows(self, object: str) -> list[Row]:
        """Return the rows of an object that are not deleted."""
        table = self.tables[object]
        found = (table.get(id) for id in table.ids())
        return [row for row in found if row is not None and not _gone(row)]

    def get(self, object: str, id: int) -> Row:
        """Return a row.

        Raises:
            ZendeskRefused: there is none.
        """
        self.work()
        found = self.tables[object].get(id)
        if found is None:
            raise not_found()
        return found

    def create(self, object: str, fields: Row, *, at: float | None = None) -> Row:
        """Create a row; ``at`` is its time if it is not now."""
        when = int(self.now() if at is None else at)
        id = int(fields.get("id") or self.new_id())
        row = {
            **copy.deepcopy(dict(facts.TEMPLATES.get(object, {}))), "id": id, "created_at": iso(when), "updated_at": iso(when),
            **fields,
        }  # fmt: skip
        if object == "tickets":
            row["generated_timestamp"] = when
            row["raw_subject"] = row["subject"]
            row["fields"] = row["custom_fields"]
            set_now = {name: value for name, value in row.items() if name in fields and name != "id"}
            self._record(id, "Create", [{name: value} for name, value in set_now.items()], when)
            self.comment(id, str(row["description"]), record=False)
        self.tables[object].put(id, row, when)
        self._tell(object, "created", row, {})
        return row

    def update(self, object: str, id: int, fields: Row, *, event: bool = True, stamp: bool = True) -> Row:
        """Change a row.

        Args:
            object: the object.
            id: the row.
            fields: the new values.
            event: whether a ticket event records the change.
            stamp: whether ``updated_at`` moves: that of changes by the system does not (reference).
        """
        table, when = self.tables[object], int(self.now())
        row = dict(table.own(id))
        old = {name: row.get(name) for name in fields}
        if object == "tickets":
            fields = dict(fields)
            if "subject" in fields:
                fields["raw_subject"] = fields["subject"]
            if "custom_fields" in fields:
                fields["custom_fields"] = fields["fields"] = _merged(
                    row["custom_fields"], fields["custom_fields"]
                )
            row["generated_timestamp"] = when
            if event:
                self._record(id, "Change", _children(old, fields), when)
        row |= fields
        if stamp:
            row["updated_at"] = iso(when)
        table.put(id, row, when)
        self._tell(object, "updated", row, old)
        return row

    def change_silently(self, object: str, id: int, fields: Row) -> None:
        """Change a row so that neither time of it moves, as when the tag of a field's option is changed (reference, *Altering
        custom fields*; that no time moves is unconfirmed).
        """
        row = self.tables[object].own(id)
        row |= fields

    def delete(self, object: str, id: int) -> None:
        """Delete a row, in the way of its object."""
        table, when = self.tables[object], int(self.now())
        row = dict(table.own(id))
        if object == "tickets":
            self.previous[id] = row["status"]
            if self.events_of_deletes:
                self._record(id, "Change", [{"status": "deleted", "previous_value": row["status"]}], when)
            row |= {"status": "deleted", "generated_timestamp": when, "updated_at": iso(when)}
            self._scrubs.append((when + facts.SCRUB_AFTER, id))
        elif object == "users":
            row |= {"active": False, "updated_at": iso(when)}
        elif object == "organizations":
            row |= {"deleted_at": iso(when), "updated_at": iso(when)}
        elif object == "groups":
            row |= {"deleted": True, "updated_at": iso(when)}
        else:
            table.drop(id)  # without any trace
            return
        table.put(id, row, when)
        self._tell(object, "soft_deleted" if object == "tickets" else "deleted", row, {})

    def restore(self, id: int) -> None:
        """Restore a deleted ticket: an ordinary update (reference, *Restore a previously deleted ticket*)."""
        row = self.get("tickets", id)
        if row["status"] != "deleted" or row["subject"] == "SCRUBBED":
            raise not_found()
        status = self.previous.pop(id, "open")
        self.update("tickets", id, {"status": status}, event=self.events_of_deletes)
        self._scrubs = [(when, other) for when, other in self._scrubs if other != id]

    def scrub(self, id: int) -> None:
        """Take the content of a deleted ticket away, as happens after 30 days (recorded)."""
        self._scrub(id, int(self.now()))

    def _scrub(self, id: int, when: int) -> None:
        row = dict(self.tables["tickets"].own(id))
        row |= {
            "subject": "SCRUBBED",
            "raw_subject": "SCRUBBED",
            "description": "X",
            "generated_timestamp": when,
        }
        self.tables["tickets"].put(id, row, when)
        self.comments.pop(id, None)

    def delete_for_good(self, id: int) -> None:
        """Delete a user for good: it is renamed, and shown again in the export."""
        row = self.get("users", id)
        if row["active"]:
            raise ZendeskRefused(422, "RecordInvalid", "Record validation errors")
        when = int(self.now())
        self.tables["users"].put(
            id, {**row, **facts.REMOVED, "permanently_deleted": True, "updated_at": iso(when)}, when
        )

    def merge_tickets(self, source: int, target: int, minutes: float = 2.0) -> None:
        """Merge a ticket into another: a job, after which the source is closed and not deleted (reference)."""
        self.later(minutes * 60, lambda: self._close_merged(source, target))

    def _close_merged(self, source: int, target: int) -> None:
        self.update("tickets", source, {"status": "closed", "tags": ["closed_by_merge"]})
        self.comment(target, f"Request #{source} was closed and merged into this request")

    def merge_users(self, loser: int, winner: int) -> None:
        """Merge a user into another: its tickets change their requester, without triggers (reference, *Merging end users*)."""
        silenced, self.listeners = self.listeners, []
        try:
            for row in self.rows("tickets"):
                if row["requester_id"] == loser:
                    self.update("tickets", row["id"], {"requester_id": winner})
            self.update("users", loser, {"active": False})
        finally:
            self.listeners = silenced

    def merge_organizations(self, loser: int, winner: int) -> None:
        """Merge an organization into another: the loser is deleted, and a later job moves its tickets (reference)."""
        self.delete("organizations", loser)
        self.later(120.0, lambda: self._move_tickets(loser, winner))

    def _move_tickets(self, loser: int, winner: int) -> None:
        for row in self.rows("tickets"):
            if row["organization_id"] == loser:
                self.update("tickets", row["id"], {"organization_id": winner}, event=False)

    def remove_schedule(self, ids: list[int]) -> None:
        """Delete archived tickets as a deletion schedule does: they have tombstones in the export, and are in no list of deleted
        tickets (reference, *Deletion schedules*).
        """
        for id in ids:
            self.delete("tickets", id)
            self.previous.pop(id, None)

    def archive(self, id: int) -> None:
        """Archive a ticket: lists leave it out, the export and its own address show it (reference, *Ticket archiving*)."""
        self.archived.add(id)

    # -- comments and events ------------------------------------------------------------------------

    def comment(self, ticket: int, body: str, *, public: bool = True, record: bool = True) -> Row:
        """Add a comment."""
        when = int(self.now())
        made: Row = {
            "id": self.new_id(), "type": "Comment", "author_id": 1, "body": body, "html_body": f"<p>{body}</p>",
            "plain_body": body, "public": public, "attachments": [], "audit_id": self.new_id(),
            "via": {"channel": "api"}, "metadata": {}, "created_at": iso(when),
        }  # fmt: skip
        self.comments.setdefault(ticket, []).append(made)
        if record:
            self._record(
                ticket, "Comment", [{"comment_present": True, "comment_public": public, "body": body}], when
            )
            row = {**self.tables["tickets"].own(ticket), "generated_timestamp": when, "updated_at": iso(when)}
            self.tables["tickets"].put(ticket, row, when)
            self._tell("tickets", "comment_added", row, {})
        return made

    def redact(self, ticket: int, comment: int) -> None:
        """Redact a comment; that is possible on archived tickets, too (reference, *Audit events*)."""
        for row in self.comments.get(ticket, ()):
            if row["id"] == comment:
                row |= {"body": "▇▇▇", "html_body": "<p>▇▇▇</p>", "plain_body": "▇▇▇"}
        self.update("tickets", ticket, {}, event=False)

    def _record(self, ticket: int, kind: str, children: list[Row], when: int) -> None:
        if not children and kind == "Change":
            return
        made: Row = {
            "id": self.new_id(), "ticket_id": ticket, "timestamp": when, "created_at": iso(when), "updater_id": 1,
            "via": "Web service", "system": {"client": "sandbox", "location": "", "ip_address": "127.0.0.1"},
            "metadata": {}, "event_type": "Audit",
            "child_events": [
                {"id": self.new_id(), "via": "Web service", "via_reference_id": None, **child, "event_type": kind}
                for child in children
            ],
        }  # fmt: skip
        self.events.append(made)
        told = [
            {
                "id": self.new_id(),
                "type": kind,
                "field_name": name,
                "value": value,
                "previous_value": child.get("previous_value"),
            }
            for child in children
            for name, value in child.items()
            if name != "previous_value"
        ]
        self.audits.setdefault(ticket, []).append(
            {
                "id": made["id"], "ticket_id": ticket, "created_at": made["created_at"], "author_id": 1,
                "metadata": {}, "via": {"channel": "api"}, "events": told,
            }
        )  # fmt: skip

    def append(self, object: str, fields: Row, *, appears: float = 0.0, at: float | None = None) -> Row:
        """Add a row to a late list; ``appears`` is the number of seconds until it is shown (estuary/connectors #5205)."""
        if object == "ticket_metric_events":
            fields = {"time": iso(self.now() if at is None else at), **fields}
        made = self.create(object, fields, at=at)
        if appears:
            self.late[made["id"]] = self.now() + appears
        return made

    def is_shown(self, id: int) -> bool:
        """Return whether a row of a late list has appeared."""
        return self.late.get(id, 0.0) <= self.now()

    # -- time ---------------------------------------------------------------------------------------

    def later(self, seconds: float, job: Callable[[], None]) -> None:
        """Run a job when that time has passed."""
        self._jobs.append((self.now() + seconds, job))

    def work(self) -> None:
        """Do what is due: jobs, and scrubbing deleted tickets."""
        now = self.now()
        due = [job for when, job in self._jobs if when <= now]
        self._jobs = [entry for entry in self._jobs if entry[0] > now]
        for job in due:
            job()
        for when, id in [entry for entry in self._scrubs if entry[0] <= now]:
            self._scrub(id, when)
        self._scrubs = [entry for entry in self._scrubs if entry[0] > now]

    def _tell(self, object: str, verb: str, row: Row, old: Row) -> None:
        for listener in self.listeners:
            listener(f"zen:event-type:{object.removesuffix('s')}.{verb}", row, old)


def _gone(row: Row) -> bool:
    return (
        row.get("status") == "deleted" or (row.get("active") is False and "role" in row) or bool(row.get("deleted_at"))
        or row.get("deleted") is True
    )  # fmt: skip


def _merged(old: list[Row], new: list[Row]) -> list[Row]:
    values = {entry["id"]: entry["value"] for entry in old} | {entry["id"]: entry["value"] for entry in new}
    return [{"id": id, "value": value} for id, value in values.items()]


def _children(old: Row, fields: Row) -> list[Row]:
    """Return the child events of a change (reference, *Ticket events*)."""
    found: list[Row] = []
    for name, value in fields.items():
        if name in ("raw_subject", "fields") or old.get(name) == value:
            continue
        if name == "tags":
            before = set(old.get("tags") or ())
            found.append(
                {
                    "tags": value,
                    "added_tags": sorted(set(value) - before),
                    "removed_tags": sorted(before - set(value)),
                }
            )
        elif name == "custom_fields":
            earlier = {entry["id"]: entry["value"] for entry in old.get("custom_fields") or ()}
            found += [
                {
                    "custom_ticket_fields": {str(entry["id"]): entry["value"]},
                    "previous_value": earlier.get(entry["id"]),
                }
                for entry in value
                if earlier.get(entry["id"]) != entry["value"]
            ]
        else:
            found.append({name: value, "previous_value": old.get(name)})
    return found
