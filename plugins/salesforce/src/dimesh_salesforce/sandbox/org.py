"""An org: its records, and the log of its change events."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import fastavro

from dimesh.sourcekit.sandbox import Refused, Row
from dimesh_salesforce.sandbox.encoding import bitmaps, event_value, grouped
from dimesh_salesforce.sandbox.eventlog import EventLog, LoggedEvent
from dimesh_salesforce.sandbox.kinds import Field, Kind, kinds
from dimesh_salesforce.sandbox.table import USER, Table, blank, moment

ORGANIZATION: Final = "00D000000000001EAA"
UI: Final = "com/salesforce/api/soap/66.0;client=SfdcInternalAPI/"


class SalesforceRefused(Refused):
    """A request that Salesforce answers with an error.

    Args:
        status: the HTTP status.
        code: the ``errorCode``.
        message: the text for people.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(status, message)
        self.code = code


class Org(EventLog):
    """The records and change events of one org.

    Args:
        seed: makes everything that looks random repeatable.
        now: the clock; :attr:`skew` moves it.
    """

    def __init__(self, *, seed: int = 0, now: Callable[[], float] = time.time) -> None:
        super().__init__(seed=seed, now=now)
        self.id = ORGANIZATION
        self.forbidden: set[str] = set()
        """The objects that the user may not see."""
        self.disabled: set[str] = set()
        """The objects that are not selected for change data capture."""
        self.channels: dict[str, list[str]] = {"/data/Sales__chn": ["Account", "Contact", "Opportunity"]}
        """The custom channels, with the objects of each."""
        self.allocation: int | None = None
        """The number of events that may still be delivered, over all subscribers (documentation); None: no limit."""
        self.max_transaction = 100_000
        """The number of changes that one transaction publishes; beyond it an object gets one overflow event
        (documentation).
        """
        self.unseen: dict[str, float] = {}
        """The time until which queries do not find a record, by its id: they lag behind the stream (estuary/connectors #2678),
        and leave out what the user may not see (documentation, *Sharing*).
        """
        self.lag = 0.0
        """The seconds by which queries lag behind the stream: they show a record as it was (estuary/connectors #2678: 1 to 5)."""
        self.archives: set[str] = {"Task"}
        """The objects whose archived records only queryAll has."""
        self.hidden: set[tuple[str, str]] = set()
        """The fields, each with its object, that the user may not see: descriptions and queries do not have them, events have no
        values of them, and the schemas of events have them all the same (documentation, *Field-Level Security*)."""
        self.kinds = kinds()
        self.tables = {name: Table(kind, self.now) for name, kind in self.kinds.items()}
        self.schemas: dict[str, str] = {}
        """The texts of the schemas, by id."""
        self._parsed: dict[str, tuple[str, Any]] = {}
        self._commit = 10_000_000
        self._open: list[tuple[str, dict[str, Any], Row, set[str]]] | None = None
        self._mergeable: dict[tuple[str, tuple[str, ...]], tuple[dict[str, Any], Row, set[str]]] = {}
        """The first event of each record in the open transaction that a later update can be merged with."""
        self._merged = True
        self._transaction = ("", 0)
        for name in self.kinds:
            self._schema(name)

    # -- records -----------------------------------------------------------------------------------

    def seed(self, object: str, count: int) -> None:
        """Create records without events.

        Raises:
            ValueError: the object has records already.
        """
        table = self.tables[object]
        if table.last:
            raise ValueError(f"{object} has records already: seed an object before anything else")
        table.seeded = table.last = count

    def rows(self, object: str) -> list[Row]:
        """Return all records that are not deleted."""
        return list(self.tables[object].rows())

    def seen(self, object: str, row: Row) -> Row | None:
        """Return a record as queries show it, which may be as it was some seconds ago; None if it was not there."""
        if not self.lag:
            return row
        old = self.tables[object].past.get(row["Id"], ())
        until = self.now() - self.lag
        return next((was for since, was in reversed(old) if since <= until), None if old else row)

    def find(self, object: str, id: str) -> Row:
        """Return a record that is not deleted.

        Raises:
            SalesforceRefused: there is none.
        """
        table = self.tables[object]
        row = table.get(table.number(id))
        if row is None or row["Id"][:15] != id[:15]:
            raise SalesforceRefused(404, "NOT_FOUND", "The requested resource does not exist")
        return row

    def create(
        self,
        object: str,
        fields: Mapping[str, Any],
        *,
        origin: str = UI,
        user: str = USER,
        publish: bool = True,
    ) -> str:
        """Create a record, and return its id."""
        table = self.tables[object]
        stamp = moment(self.now())
        row = blank(table.kind)
        self._check(object, fields, row)
        number = table.last + 1
        row |= {
            "Id": table.id(number),
            "IsDeleted": False,
            "OwnerId": user,
            "CreatedById": user,
            "CreatedDate": stamp,
        }
        row |= {"LastModifiedById": user, "LastModifiedDate": stamp, "SystemModstamp": stamp, **fields}
        _name(table.kind, row)
        table.put(number, row)
        if publish:
            self._publish(object, "CREATE", [row["Id"]], row, origin=origin, user=user)
        share, shared = table.kind.shares
        if share:
            cause = (
                {"RowCause": "Owner", "UserOrGroupId": user}
                if share.endswith("Share")
                else {"LinkedEntityId": user}
            )
            self.create(share, {shared: row["Id"], **cause})
        return str(row["Id"])

    def update(
        self,
        object: str,
        id: str,
        fields: Mapping[str, Any],
        *,
        origin: str = UI,
        user: str = USER,
        publish: bool = True,
        stamped: bool = True,
    ) -> None:
        """Change a record."""
        self.update_many(object, [id], fields, origin=origin, user=user, publish=publish, stamped=stamped)

    def update_many(
        self,
        object: str,
        ids: Sequence[str],
        fields: Mapping[str, Any],
        *,
        origin: str = UI,
        user: str = USER,
        publish: bool = True,
        wildcard: bool = False,
        stamped: bool = True,
    ) -> None:
        """Change several records in the same way: one event carries all ids (recorded), or a wildcard (documentation)."""
        table = self.tables[object]
        stamp = moment(self.now())
        after: Row = {}
        changed: set[str] = set()
        for id in ids:
            before = self.find(object, id)
            self._check(object, fields, before)
            after = {
                **before,
                **fields,
                "LastModifiedDate": stamp,
                "LastModifiedById": user,
                "SystemModstamp": stamp,
            }
            _name(table.kind, after)
            changed |= {name for name, value in after.items() if value != before[name]} - {"SystemModstamp"}
            table.put(table.number(id), after)
        if publish and ids:
            changed |= {"LastModifiedDate"}
            if not stamped:
                changed -= {"LastModifiedDate", "LastModifiedById"}
            if object == "Account" and "IsPersonAccount" in after:
                changed = {n for n in changed if not n.startswith("Person") and not n.endswith("__pc")}
            keys = [f"{table.kind.prefix}*"] if wildcard else [self.find(object, id)["Id"] for id in ids]
            self._publish(object, "UPDATE", keys, after, changed, origin=origin, user=user)

    def delete(
        self, object: str, id: str, *, origin: str = UI, user: str = USER, publish: bool = True
    ) -> None:
        """Delete a record: it moves to the recycle bin."""
        row = self.find(object, id)
        table = self.tables[object]
        gone = table.drop(table.number(id))
        table.deleted[table.number(id)] = {**gone, "IsDeleted": True, "SystemModstamp": moment(self.now())}
        if not table.kind.recycled:
            table.purged.add(table.number(id))
        for child, one in self._children(object):
            if one.cascades:
                for row_ in list(self.tables[child].rows()):
                    if row_[one.name] == row["Id"]:
                        # Triggers do not run for them (SFDO-Community/declarative-lookup-rollup-summaries #257); whether they
                        # have events is unconfirmed.
                        self.delete(child, row_["Id"], publish=False)
        if publish:
            self._publish(object, "DELETE", [row["Id"]], {}, origin=origin, user=user)

    def merge(self, object: str, winner: str, losers: Sequence[str]) -> None:
        """Merge records: the losers are deleted, and name the winner as their master; the winner is updated; the children of the
        losers get the winner as their parent, without triggers, and here without events (documentation, *Triggers and Merge
        Statements*).
        """
        for loser in losers:
            for child, one in self._children(object):
                for row in list(self.tables[child].rows()):
                    if row[one.name] == loser:
                        self.update(child, row["Id"], {one.name: winner}, publish=False)
        with self.transaction():
            for loser in losers:
                self.delete(object, loser)
                table = self.tables[object]
                table.deleted[table.number(loser)]["MasterRecordId"] = winner
            self.update(object, winner, {})

    def _children(self, object: str) -> list[tuple[str, Field]]:
        """Return the objects with a field that refers to this one, and the field."""
        return [
            (kind.name, one)
            for kind in self.kinds.values()
            for one in kind.fields
            if one.reference == object and object != kind.name
        ]

    def archive(self, id: str) -> None:
        """Archive a task: only queryAll has it then, and a gap event tells (documentation, *Gap Events*; which one is
        unconfirmed).
        """
        self.update("Task", id, {"IsArchived": True}, publish=False)
        self.gap("Task", [id])

    def undelete(self, object: str, id: str, *, origin: str = UI, user: str = USER) -> None:
        """Restore a record from the recycle bin."""
        table = self.tables[object]
        number = table.number(id)
        row = table.deleted.get(number)
        if row is None:
            raise SalesforceRefused(404, "NOT_FOUND", "The requested resource does not exist")
        table.put(number, {**row, "IsDeleted": False, "SystemModstamp": moment(self.now())})
        self._publish(object, "UNDELETE", [row["Id"]], self.find(object, id), origin=origin, user=user)

    def change_silently(self, object: str, id: str, fields: Mapping[str, Any]) -> None:
        """Change a record below the application layer, without an event (documentation: a cause of gaps)."""
        self.update(object, id, fields, publish=False)

    def derive(self, object: str, id: str, fields: Mapping[str, Any]) -> None:
        """Change the values of formulas: no event and no stamp shows it (documentation)."""
        row = self.find(object, id)
        self._check(object, fields, row)
        table = self.tables[object]
        table.put(table.number(id), {**row, **fields})

    def carry(self, object: str, name: str) -> None:
        """Let events carry a derived field from now on, as newer releases do with custom formulas (documentation)."""
        kind = self.kinds[object]
        kind.fields = [replace(one, derived=False) if one.name == name else one for one in kind.fields]
        self._schema(object)

    def delete_silently(self, object: str, id: str) -> None:
        """Delete a record without an event."""
        self.delete(object, id, publish=False)

    def empty_bin(self, object: str) -> None:
        """Purge the deleted records: queries no longer return them, ``deleted`` still lists them."""
        table = self.tables[object]
        table.purged |= table.deleted.keys()

    def purge_deletes(self, object: str) -> None:
        """Purge the recycle bin and the log of deletes, as an administrator can, and as Salesforce does every two hours with a
        log that has grown too long (documentation, *getDeleted*).
        """
        table = self.tables[object]
        table.deleted.clear()
        table.purged.clear()
        table.logged_since = self.now()

    def add_field(self, object: str, name: str, kind: str = "string") -> None:
        """Add a custom field: later events have another schema (documentation)."""
        made = Field(name, kind)
        self.kinds[object].fields.append(made)
        for row in self.tables[object].rows():
            row.setdefault(name, None)
        self._schema(object)

    def enable_person_accounts(self) -> None:
        """Let accounts be persons: they have the fields of a contact, too. The event of the contact tells of an update of these,
        and the one of the account leaves them out; the event of a new account has them (documentation).
        """
        self.kinds["Account"].fields += [
            Field("IsPersonAccount", "boolean"), Field("RecordTypeId", "reference"), Field("PersonEmail", "email"),
            Field("Tier__pc", "picklist"),
        ]  # fmt: skip
        self._schema("Account")

    def convert_lead(self, lead: str) -> tuple[str, str, str]:
        """Convert a lead into an account, a contact and an opportunity. The event of the lead has no LastModifiedDate
        (documentation).
        """
        row = self.find("Lead", lead)
        with self.transaction():
            account = self.create("Account", {"Name": row["Company"]})
            contact = self.create("Contact", {"LastName": row["LastName"], "AccountId": account})
            opportunity = self.create("Opportunity", {"Name": row["Company"], "AccountId": account})
            self.update("Lead", lead, {"Status": "Converted"}, stamped=False)
        return account, contact, opportunity

    def convert_field(self, object: str, name: str, kind: str, told: str = "") -> None:
        """Convert the type of a field (documentation, *Field Type Conversions*).

        Args:
            object: the object.
            name: the field.
            kind: the new type.
            told: how it is told: not at all (empty, as most conversions), by one event for all rows (``wildcard``), or by gap
                events (``gap``).
        """
        made = self.kinds[object]
        made.fields = [replace(one, kind=kind) if one.name == name else one for one in made.fields]
        for row in list(self.tables[object].rows()):
            self.derive(object, row["Id"], {name: None if row[name] is None else _converted(row[name], kind)})
        self._schema(object)
        if told == "wildcard":
            self._publish(object, "UPDATE", [f"{made.prefix}*"], {})
        elif told == "gap":
            self.gap(object, [row["Id"] for row in self.rows(object)])

    def _check(self, object: str, fields: Mapping[str, Any], row: Row) -> None:
        for name in fields:
            if name not in row:
                raise SalesforceRefused(
                    400, "INVALID_FIELD", f"No such column '{name}' on sobject of type {object}"
                )

    # -- events ------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, merged: bool = True) -> Iterator[None]:
        """Publish the changes of the block as one transaction.

        Args:
            merged: whether a record has one event, with the kind of its first change and its final values (documentation,
                *General Considerations*); else each change has its own (recorded).
        """
        self._open, self._mergeable, self._merged = [], {}, merged
        self._begin()
        try:
            yield
        finally:
            changes, self._open = self._open, None
            for name, header, row, _ in changes[: self.max_transaction]:
                self._append(name, header, row)
            self._wake()
            for name in dict.fromkeys(name for name, _, _, _ in changes[self.max_transaction :]):
                self.overflow(name)

    def gap(self, object: str, ids: Iterable[str], kind: str = "GAP_UPDATE") -> None:
        """Publish that records changed, without the change (documentation: gap events)."""
        self._publish(object, kind, list(ids), {})

    def overflow(self, object: str) -> None:
        """Publish that a transaction changed more than its events can carry (documentation: overflow events)."""
        self._publish(object, "GAP_OVERFLOW", ["000000000000000AAA"], {})

    def raw(self, object: str, payload: bytes, schema_id: str | None = None) -> None:
        """Publish any bytes as an event."""
        self._log(object, payload, self._parsed[object][0] if schema_id is None else schema_id)
        self._wake()

    def after(self, number: int, topic: str, most: int) -> list[LoggedEvent]:
        """Return the next events of a topic."""
        return self.of(self.objects(topic), number, most)

    def objects(self, topic: str) -> set[str]:
        """Return the objects whose events a topic carries. Names are case-sensitive (documentation).

        Raises:
            StopIteration: there is no such topic.
        """
        if topic == "/data/ChangeEvents":
            return set(self.kinds) - self.disabled
        if topic in self.channels:
            return set(self.channels[topic])
        return {next(kind.name for kind in self.kinds.values() if f"/data/{kind.event}" == topic)}

    def schema_of(self, object: str) -> str:
        """Return the id of the schema that an object's newest events have."""
        return self._parsed[object][0]

    def _schema(self, object: str) -> None:
        schema = self.kinds[object].schema()
        text = json.dumps(schema)
        id = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        self.schemas[id] = text
        self._parsed[object] = (id, fastavro.parse_schema(schema))

    def _begin(self) -> None:
        self._commit += self._rng.randint(1, 50)
        self._transaction = (f"0000{self._rng.getrandbits(64):016x}-{self._rng.getrandbits(32):08x}", 0)

    def _publish(
        self, object: str, kind: str, ids: list[str], row: Row, changed: set[str] | None = None, *,
        origin: str = UI, user: str = USER,
    ) -> None:  # fmt: skip
        if object in self.disabled or not self.kinds[object].tracked:
            return
        if self._open is None:
            self._begin()
        key, sequence = self._transaction
        self._transaction = (key, sequence + 1)
        if changed:
            changed = grouped(self.kinds[object], changed)
        names, nulled = bitmaps(self.kinds[object], changed, row) if changed else ([], [])
        header = {
            "entityName": object,
            "recordIds": ids,
            "changeType": kind,
            "changeOrigin": origin,
            "transactionKey": key,
            "sequenceNumber": sequence + 1,
            "commitTimestamp": int(self.now() * 1000),
            "commitNumber": self._commit,
            "commitUser": user,
            "nulledFields": nulled,
            "diffFields": [],
            "changedFields": names,
        }
        kept = row if changed is None else {name: row[name] for name in changed}
        if kind == "CREATE":
            kept = {name: value for name, value in row.items() if name not in self.kinds[object].late}
        if self._open is not None:
            changed = changed or set()
            if not (self._merged and kind == "UPDATE" and self._merge(object, ids, row, changed)):
                event = (header, dict(kept), changed)
                self._open.append((object, *event))
                if kind in ("CREATE", "UPDATE"):
                    self._mergeable.setdefault((object, tuple(ids)), event)
        else:
            self._append(object, header, kept)
            self._wake()

    def _merge(self, object: str, ids: list[str], row: Row, changed: set[str]) -> bool:
        """Add an update to the earlier event of its record in the open transaction; return whether there is one."""
        first = self._mergeable.get((object, tuple(ids)))
        if first is None:
            return False
        header, kept, before = first
        before |= changed
        kept |= {column: row[column] for column in changed}
        if header["changeType"] == "UPDATE":
            found = bitmaps(self.kinds[object], before, row)
            header["changedFields"], header["nulledFields"] = found
        return True

    def _append(self, object: str, header: Mapping[str, Any], row: Row) -> None:
        schema_id, parsed = self._parsed[object]
        event: Row = {"ChangeEventHeader": header}
        for one in self.kinds[object].told:
            hidden = (object, one.name) in self.hidden
            event[one.name] = None if hidden else event_value(one, row)
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, parsed, event)
        self._log(object, stream.getvalue(), schema_id)


def _converted(value: Any, kind: str) -> Any:
    return (
        int(float(value)) if kind == "int" else float(value) if kind in ("double", "currency") else str(value)
    )


def _name(kind: Kind, row: Row) -> None:
    """Compose the name of a person from its parts."""
    if any(one.kind == "person" for one in kind.fields):
        parts = (row.get("Salutation"), row.get("FirstName"), row.get("LastName"))
        row["Name"] = " ".join(part for part in parts if part) or None
