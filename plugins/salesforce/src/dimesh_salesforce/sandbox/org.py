"""An org: its records, and the events of what happened to them."""

from __future__ import annotations

import hashlib
import io
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import fastavro

from dimesh_salesforce.sandbox.kinds import Field, Kind, kinds

Row = dict[str, Any]
RETENTION: Final = 72 * 3_600
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_VALUES: Final = {letter: n for n, letter in enumerate(_ALPHABET)}
_SUFFIX: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
ORGANIZATION: Final = "00D000000000001EAA"
USER: Final = "005000000000001AAA"
UI: Final = "com/salesforce/api/soap/66.0;client=SfdcInternalAPI/"


class Refused(Exception):  # noqa: N818 - not an error of ours
    """A request that Salesforce answers with an error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(slots=True)
class Told:
    """An event of the log."""

    number: int
    at: float
    object: str
    replay_id: bytes
    schema_id: str
    payload: bytes


class Table:
    """The records of an object, by number. Those that were seeded are computed when they are looked at."""

    def __init__(self, kind: Kind, born: float) -> None:
        self.kind = kind
        self.last = 0
        self.seeded = 0
        self.deleted: dict[int, Row] = {}
        self.purged: set[int] = set()
        """Those of them that are not in the recycle bin any more."""
        self._made: dict[int, Row] = {}
        self._born = born

    def id(self, number: int) -> str:
        """The id of a number: 15 characters, and 3 that tell their case."""
        digits = []
        rest = number
        for _ in range(9):
            rest, digit = divmod(rest, 62)
            digits.append(_ALPHABET[digit])
        return with_suffix(f"{self.kind.prefix}000{''.join(reversed(digits))}")

    def number(self, id: str) -> int:
        """The number of an id; 0 if it is of another object, and that of the nearest below where there is none such."""
        if len(id) not in (15, 18) or not id.startswith(f"{self.kind.prefix}000"):
            return 0 if id[:6] < f"{self.kind.prefix}000" else self.last
        number = 0
        for letter in id[6:15]:
            number = number * 62 + _VALUES.get(letter, 0)
        return number

    def get(self, number: int) -> Row | None:
        """A live record."""
        found = self._made.get(number)
        if found is None and 0 < number <= self.seeded and number not in self.deleted:
            found = self._virtual(number)
        return found

    def put(self, number: int, row: Row) -> None:
        """Make or replace a record."""
        self._made[number] = row
        self.deleted.pop(number, None)
        self.last = max(self.last, number)

    def drop(self, number: int) -> Row:
        """Delete a record."""
        row = self.get(number)
        assert row is not None
        self._made.pop(number, None)
        self.deleted[number] = row
        return row

    def __len__(self) -> int:
        return (
            len(self._made)
            + self.seeded
            - sum(1 for n in self.deleted if n <= self.seeded)
            - sum(1 for n in self._made if n <= self.seeded)
        )

    def rows(self, after: int = 0, upto: int | None = None, descending: bool = False) -> Iterator[Row]:
        """Live records by id."""
        last = self.last if upto is None else min(upto, self.last)
        numbers = range(last, after, -1) if descending else range(after + 1, last + 1)
        for number in numbers:
            row = self.get(number)
            if row is not None:
                yield row

    def _virtual(self, number: int) -> Row:
        row = blank(self.kind)
        row |= {
            "Id": self.id(number),
            "IsDeleted": False,
            "OwnerId": USER,
            "CreatedById": USER,
            "LastModifiedById": USER,
        }
        row |= dict.fromkeys(("CreatedDate", "LastModifiedDate", "SystemModstamp"), moment(self._born))
        for name in ("Name", "LastName"):
            if name in row:
                row[name] = f"{self.kind.name} {number}"
        if "Phone" in row:
            row["Phone"] = f"+49 30 {number:07}"
        return row


class Org:
    """Records and events of one org.

    Args:
        seed: of what looks random, so that a run can be repeated.
        now: the clock; :attr:`skew` moves it.
    """

    def __init__(self, *, seed: int = 0, now: Callable[[], float] = time.time) -> None:
        self.id = ORGANIZATION
        self.skew = 0.0
        """Seconds that the org's clock is ahead."""
        self.forbidden: set[str] = set()
        """Objects that the user may not see."""
        self.disabled: set[str] = set()
        """Objects that are not selected for change data capture."""
        self.channels: dict[str, list[str]] = {"/data/Sales__chn": ["Account", "Contact", "Opportunity"]}
        self.allocation: int | None = None
        """Events that are delivered yet, over all subscribers; None: no end."""
        self.told_at_most = 100_000
        """Changes of one transaction; of what goes beyond only the objects are told."""
        self.kinds = kinds()
        self.tables = {name: Table(kind, now()) for name, kind in self.kinds.items()}
        self.schemas: dict[str, str] = {}
        """Texts by id."""
        self.told: list[Told] = []
        self.listeners: list[Callable[[], None]] = []
        """Are called when something was told."""
        self._now = now
        self._rng = random.Random(seed)  # noqa: S311 - a sandbox
        self._secret = hashlib.blake2b(str(seed).encode(), digest_size=16).digest()
        self._places: dict[bytes, tuple[int, float]] = {}
        self._marks = 0
        self._parsed: dict[str, tuple[str, Any]] = {}
        self._commit = 10_000_000
        self._open: list[tuple[str, Mapping[str, Any], Row]] | None = None
        self._transaction = ("", 0)
        for name in self.kinds:
            self._schema(name)

    def now(self) -> float:
        """The org's time."""
        return self._now() + self.skew

    # -- records -----------------------------------------------------------------------------------

    def seed(self, object: str, count: int) -> None:
        """Let there be so many records, of which no event told."""
        table = self.tables[object]
        assert table.last == 0, "seed an object before anything else"
        table.seeded = table.last = count

    def rows(self, object: str) -> list[Row]:
        """All live records."""
        return list(self.tables[object].rows())

    def find(self, object: str, id: str) -> Row:
        """A live record."""
        table = self.tables[object]
        row = table.get(table.number(id))
        if row is None or row["Id"][:15] != id[:15]:
            raise Refused(404, "NOT_FOUND", "The requested resource does not exist")
        return row

    def create(
        self, object: str, fields: Mapping[str, Any], *, origin: str = UI, user: str = USER, tell: bool = True
    ) -> str:
        """Make a record."""
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
        if tell:
            self._tell(object, "CREATE", [row["Id"]], row, origin=origin, user=user)
        return str(row["Id"])

    def update(
        self,
        object: str,
        id: str,
        fields: Mapping[str, Any],
        *,
        origin: str = UI,
        user: str = USER,
        tell: bool = True,
    ) -> None:
        """Change a record."""
        self.update_many(object, [id], fields, origin=origin, user=user, tell=tell)

    def update_many(
        self,
        object: str,
        ids: Sequence[str],
        fields: Mapping[str, Any],
        *,
        origin: str = UI,
        user: str = USER,
        tell: bool = True,
        wildcard: bool = False,
    ) -> None:
        """Change records alike: one event tells of all."""
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
        if tell and ids:
            changed |= {"LastModifiedDate"}
            told = [f"{table.kind.prefix}*"] if wildcard else [self.find(object, id)["Id"] for id in ids]
            self._tell(object, "UPDATE", told, after, changed, origin=origin, user=user)

    def delete(self, object: str, id: str, *, origin: str = UI, user: str = USER, tell: bool = True) -> None:
        """Delete a record: it goes to the recycle bin."""
        row = self.find(object, id)
        table = self.tables[object]
        gone = table.drop(table.number(id))
        table.deleted[table.number(id)] = {**gone, "IsDeleted": True, "SystemModstamp": moment(self.now())}
        if tell:
            self._tell(object, "DELETE", [row["Id"]], {}, origin=origin, user=user)

    def undelete(self, object: str, id: str, *, origin: str = UI, user: str = USER) -> None:
        """Take a record out of the recycle bin."""
        table = self.tables[object]
        number = table.number(id)
        row = table.deleted.get(number)
        if row is None:
            raise Refused(404, "NOT_FOUND", "The requested resource does not exist")
        table.put(number, {**row, "IsDeleted": False, "SystemModstamp": moment(self.now())})
        self._tell(object, "UNDELETE", [row["Id"]], self.find(object, id), origin=origin, user=user)

    def change_silently(self, object: str, id: str, fields: Mapping[str, Any]) -> None:
        """Change a record below the application layer: no event."""
        self.update(object, id, fields, tell=False)

    def delete_silently(self, object: str, id: str) -> None:
        """Delete a record without an event."""
        self.delete(object, id, tell=False)

    def empty_bin(self, object: str) -> None:
        """Nobody can query the deleted records any more; that they were deleted is known still."""
        table = self.tables[object]
        table.purged |= table.deleted.keys()

    def add_field(self, object: str, name: str, kind: str = "string") -> None:
        """A new custom field: later events have another schema."""
        made = Field(name, kind)
        self.kinds[object].fields.append(made)
        for row in self.tables[object].rows():
            row.setdefault(name, None)
        self._schema(object)

    def _check(self, object: str, fields: Mapping[str, Any], row: Row) -> None:
        for name in fields:
            if name not in row:
                raise Refused(400, "INVALID_FIELD", f"No such column '{name}' on sobject of type {object}")

    # -- events ------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is done inside is told as one transaction."""
        self._open = []
        self._begin()
        try:
            yield
        finally:
            told, self._open = self._open, None
            for name, header, row in told[: self.told_at_most]:
                self._append(name, header, row)
            self._wake()
            for name in dict.fromkeys(name for name, _, _ in told[self.told_at_most :]):
                self.overflow(name)

    def gap(self, object: str, ids: Iterable[str], kind: str = "GAP_UPDATE") -> None:
        """Tell that something happened to records, and not what."""
        self._tell(object, kind, list(ids), {})

    def overflow(self, object: str) -> None:
        """Tell that a transaction changed too much to be told."""
        self._tell(object, "GAP_OVERFLOW", ["000000000000000AAA"], {})

    def raw(self, object: str, payload: bytes, schema_id: str | None = None) -> None:
        """Send any bytes as an event."""
        self._log(object, payload, self._parsed[object][0] if schema_id is None else schema_id)
        self._wake()

    def migrate(self) -> None:
        """The org moved: no replay id from before is known."""
        self._places.clear()
        self.told.clear()
        self._secret = hashlib.blake2b(self._secret, digest_size=16).digest()

    def place(self, replay_id: bytes) -> int | None:
        """The number of the event that a replay id stands for; None if it is unknown or too old."""
        found = self._places.get(replay_id)
        if found is None or found[1] < self.now() - RETENTION:
            return None
        return found[0]

    def earliest(self) -> int:
        """The number before the oldest event that is kept."""
        oldest = self.now() - RETENTION
        return next((t.number - 1 for t in self.told if t.at >= oldest), self.latest())

    def latest(self) -> int:
        """The number of the newest event."""
        return self.told[-1].number if self.told else self._first - 1

    @property
    def _first(self) -> int:
        return self.told[0].number if self.told else self._marks + 1

    def after(self, number: int, topic: str, most: int) -> list[Told]:
        """The next events of a topic."""
        if not self.told:
            return []
        objects = self.objects(topic)
        found: list[Told] = []
        for told in self.told[max(number - self.told[0].number + 1, 0) :]:
            if len(found) >= most:
                break
            if told.object in objects:
                found.append(told)
        return found

    def objects(self, topic: str) -> set[str]:
        """The objects whose events a topic has.

        Raises:
            KeyError: no such topic.
        """
        if topic == "/data/ChangeEvents":
            return set(self.kinds) - self.disabled
        if topic in self.channels:
            return set(self.channels[topic])
        return {next(kind.name for kind in self.kinds.values() if f"/data/{kind.event}" == topic)}

    def mark(self, number: int) -> bytes:
        """A fresh replay id for what comes after an event."""
        self._marks += 1
        replay_id = self._replay_id(-self._marks)
        self._places[replay_id] = (number, self.now())
        return replay_id

    def _replay_id(self, number: int) -> bytes:
        # Of no order and no one length: who reads anything into one is wrong.
        size = 8 + number % 11
        return hashlib.blake2b(str(number).encode(), key=self._secret, digest_size=size).digest()

    def schema_of(self, object: str) -> str:
        """The id of the schema of an object's newest events."""
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

    def _tell(
        self, object: str, kind: str, ids: list[str], row: Row, changed: set[str] | None = None, *,
        origin: str = UI, user: str = USER,
    ) -> None:  # fmt: skip
        if object in self.disabled:
            return
        if self._open is None:
            self._begin()
        key, sequence = self._transaction
        self._transaction = (key, sequence + 1)
        names, nulled = self._bitmaps(object, changed, row) if changed else ([], [])
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
        if self._open is not None:
            self._open.append((object, header, dict(kept)))
        else:
            self._append(object, header, kept)
            self._wake()

    def _append(self, object: str, header: Mapping[str, Any], row: Row) -> None:
        schema_id, parsed = self._parsed[object]
        event: Row = {"ChangeEventHeader": header}
        for one in self.kinds[object].fields:
            event[one.name] = _event_value(one, row)
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, parsed, event)
        self._log(object, stream.getvalue(), schema_id)

    def _log(self, object: str, payload: bytes, schema_id: str) -> None:
        number = self.latest() + 1
        self._marks = max(self._marks, number)
        replay_id = self._replay_id(number)
        self._places[replay_id] = (number, self.now())
        self.told.append(Told(number, self.now(), object, replay_id, schema_id, payload))

    def _wake(self) -> None:
        for listener in self.listeners:
            listener()

    def _bitmaps(self, object: str, changed: set[str], row: Row) -> tuple[list[str], list[str]]:
        names: dict[int | None, int] = {}
        nulled: dict[int | None, int] = {}
        for place, one in enumerate(self.kinds[object].fields, 1):
            if one.members and one.kind != "switchable":
                for bit, member in enumerate(one.members):
                    column = one.column(member)
                    if column in changed:
                        names[place] = names.get(place, 0) | 1 << bit
                        if row[column] is None:
                            nulled[place] = nulled.get(place, 0) | 1 << bit
            elif one.name in changed:
                names[None] = names.get(None, 0) | 1 << place
                if row[one.name] is None:
                    nulled[None] = nulled.get(None, 0) | 1 << place
        return _hex(names), _hex(nulled)


def _hex(bits: Mapping[int | None, int]) -> list[str]:
    found = []
    for place in sorted(bits, key=lambda p: -1 if p is None else p):
        digits = f"{bits[place]:X}"
        digits = digits.zfill(len(digits) + len(digits) % 2)
        found.append(f"0x{digits}" if place is None else f"{place}-0x{digits}")
    return found


def _event_value(one: Field, row: Row) -> Any:
    if one.members and one.kind != "switchable":
        members = {m: row.get(column) if (column := one.column(m)) else None for m in one.members}
        return members if any(value is not None for value in members.values()) else None
    value = row.get(one.name)
    if value is None:
        return None
    if one.kind == "datetime":
        return int(datetime.fromisoformat(value).timestamp() * 1000)
    if one.kind == "date":
        return int(datetime.fromisoformat(value).replace(tzinfo=UTC).timestamp() * 1000)
    if one.kind in ("currency", "percent", "double"):
        return float(value)
    return value


def _name(kind: Kind, row: Row) -> None:
    """The name of a person is made of its parts."""
    if any(one.kind == "person" for one in kind.fields):
        parts = (row.get("Salutation"), row.get("FirstName"), row.get("LastName"))
        row["Name"] = " ".join(part for part in parts if part) or None


def blank(kind: Kind) -> Row:
    """A record without values."""
    return {name: None for name, kind_, _ in kind.columns() if kind_ not in ("address", "location")}


def moment(seconds: float) -> str:
    """As the REST API writes a time: whole seconds."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%S.000+0000")


def with_suffix(id: str) -> str:
    """The form of 18 characters of an id of 15."""
    suffix = ""
    for begin in (0, 5, 10):
        bits = sum(1 << n for n, letter in enumerate(id[begin : begin + 5]) if letter.isupper())
        suffix += _SUFFIX[bits]
    return id + suffix
