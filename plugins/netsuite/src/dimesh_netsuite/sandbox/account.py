"""What a NetSuite account holds: tables, the records of deletes, system notes, and what a role sees of them."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from dimesh.sourcekit.sandbox import Row, SimulatedState
from dimesh_netsuite.sandbox import facts

ACCOUNT: Final = "TSTDRV1234567"
_SQL_TYPES: Final = {"id": "INTEGER", "number": "REAL", "time": "INTEGER"}
_LOGS: Final = frozenset({"deletedrecord", "systemnote", "systemnote2", "customrecordtype"})


@dataclass(slots=True)
class Role:
    """What the role of the integration may see (Oracle, *Role considerations*)."""

    name: str = "Integration"
    tables: set[str] | None = None
    """The tables; None: all of them."""
    without: set[str] = field(default_factory=set)
    """Tables that it does not see."""
    columns: set[tuple[str, str]] = field(default_factory=set)
    """Columns that it does not see, each with its table."""
    subsidiaries: set[int] | None = None
    """The subsidiaries whose rows it sees; None: all of them."""

    def sees(self, table: str, column: str | None = None) -> bool:
        """Return whether the role sees a table or a column."""
        if table in self.without or not (self.tables is None or table in self.tables or table == "dual"):
            return False
        return column is None or (table, column) not in self.columns


class Account(SimulatedState):
    """The state of one account, in an SQLite database in memory.

    Args:
        zone: the time zone of the account.
        seed: makes what looks random repeatable.
        now: the clock.
    """

    def __init__(
        self, *, zone: str = "America/Los_Angeles", seed: int = 0, now: Callable[[], float] = time.time
    ) -> None:
        super().__init__(seed=seed, now=now)
        self.id = ACCOUNT
        self.zone = ZoneInfo(zone)
        self.date_format = "%-m/%-d/%Y"
        """The display format of dates: a preference of the user."""
        self.stamps_without_offset = False
        """Whether times are stored as the account's local time, so that UTC cannot be told in the hour that autumn repeats
        (not confirmed)."""
        self.role = Role()
        self.hidden: set[tuple[str, int]] = set()
        """Rows that exist and that the role does not see, by table and id."""
        self.tables: dict[str, dict[str, facts.Type]] = {"dual": {"dummy": "text"}}
        self.database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self.untracked: set[str] = set()
        """The tables whose deletes leave no record."""
        self._custom: dict[str, int] = {}
        self._next: dict[str, int] = {}
        self.database.execute("CREATE TABLE dual (dummy TEXT)")
        self.database.execute("INSERT INTO dual VALUES ('X')")
        for name, columns in facts.TABLES.items():
            self.add_table(name, columns)

    # -- tables ------------------------------------------------------------------------------------

    def add_table(self, name: str, columns: Mapping[str, facts.Type]) -> None:
        """Add a table."""
        key = self.keys(name)
        made = ", ".join(f'"{c}" {_SQL_TYPES.get(kind, "TEXT")}' for c, kind in columns.items())
        listed = ", ".join(f'"{c}"' for c in key)
        unique = "" if name == "deletedrecord" else f", PRIMARY KEY ({listed})"
        self.database.execute(f'CREATE TABLE "{name}" ({made}{unique})')
        self.tables[name] = dict(columns)
        for stamp in {self.stamp_of(name), "deleteddate", "date"} & columns.keys():
            self.database.execute(f'CREATE INDEX "{name}_{stamp}" ON "{name}" ("{stamp}")')

    def add_field(self, table: str, name: str, kind: facts.Type = "text") -> None:
        """Add a custom field, such as ``custentity_region``."""
        self.database.execute(f'ALTER TABLE "{table}" ADD COLUMN "{name}" {_SQL_TYPES.get(kind, "TEXT")}')
        self.tables[table][name] = kind

    def remove_field(self, table: str, name: str) -> None:
        """Remove a field."""
        self.database.execute(f'ALTER TABLE "{table}" DROP COLUMN "{name}"')
        del self.tables[table][name]

    def add_record_type(self, name: str, columns: Mapping[str, facts.Type] | None = None) -> None:
        """Add a custom record type. Its deletes are recorded under its number (stitchdata/docs)."""
        number = self._custom[name] = 100 + len(self._custom)
        base: dict[str, facts.Type] = {
            "id": "id", "name": "text", "isinactive": "flag", "created": "time", "lastmodified": "time",
        }  # fmt: skip
        self.add_table(name, {**base, **(columns or {})})
        self.database.execute(
            "INSERT INTO customrecordtype VALUES (?, ?, ?)",
            (number, name.upper(), name.removeprefix("customrecord_")),
        )

    def keys(self, table: str) -> tuple[str, ...]:
        """Return the names of a table's key."""
        return facts.KEYS.get(table, ("id",))

    def stamp_of(self, table: str) -> str:
        """Return the name of the column with the time of the last change."""
        return (
            "lastmodified"
            if table.startswith("customrecord")
            else facts.STAMPS.get(table, "lastmodifieddate")
        )

    # -- rows --------------------------------------------------------------------------------------

    def create(self, table: str, fields: Mapping[str, Any], *, at: float | None = None) -> int:
        """Create a row, and return its id.

        Args:
            table: the table.
            fields: its columns.
            at: the time in the row; None: now. Times have whole seconds (reported).
        """
        columns = self._columns(table)
        at = self.now() if at is None else at
        row: dict[str, Any] = {"isinactive": "F", "subsidiary": 1, **fields}
        if self.keys(table) == ("id",):
            row.setdefault("id", self.next_id(table))
            self._next[table] = max(self._next.get(table, 0), int(row["id"]))
        for name in (
            "createddate",
            "datecreated",
            "created",
            facts.CREATED.get(table, ""),
            self.stamp_of(table),
        ):
            if name in columns:
                row.setdefault(name, int(at))
        row = {name: value for name, value in row.items() if name in columns}
        self._insert(table, row)
        return int(row.get("id", 0))

    def update(
        self,
        table: str,
        id: int,
        fields: Mapping[str, Any],
        *,
        silent: bool = False,
        at: float | None = None,
        by: str = "5",
    ) -> None:
        """Change a row.

        Args:
            table: the table.
            id: the id of the row.
            fields: the new values.
            silent: whether the time of the last change stays, as with changes of child records and by some workflows (reported).
            at: the time in the row; None: now.
            by: the id of the employee.
        """
        before = self.row(table, id)
        at = self.now() if at is None else at
        row = dict(fields)
        stamp = self.stamp_of(table)
        if not silent and stamp in self._columns(table):
            row.setdefault(stamp, int(at))
        assigned = ", ".join(f'"{name}" = ?' for name in row)
        self.database.execute(f'UPDATE "{table}" SET {assigned} WHERE id = ?', (*row.values(), id))
        if table in facts.NOTE_TYPES and not silent:
            for name, value in fields.items():
                if name in facts.AUDITED and str(before.get(name)) != str(value):
                    self.note(table, id, facts.AUDITED[name], before.get(name), value, at, by)

    def delete(self, table: str, id: int, *, by: str = "5", at: float | None = None) -> None:
        """Delete a row, with a record of it where NetSuite tracks its type. The lines of a transaction go with it."""
        row = self.row(table, id)
        self.database.execute(f'DELETE FROM "{table}" WHERE id = ?', (id,))
        if table == "transaction":
            for lines in ("transactionline", "transactionaccountingline"):
                self.database.execute(f'DELETE FROM "{lines}" WHERE "transaction" = ?', (id,))
        if table not in self.untracked:
            self.record_delete(self.deleted_type(table, row), id, table in self._custom, by, at)

    def deleted_type(self, table: str, row: Mapping[str, Any]) -> str:
        """Return the name of a row's type in ``deletedrecord``."""
        if table in self._custom:
            return str(self._custom[table])
        if table == "transaction":
            return facts.TRANSACTION_TYPES.get(str(row.get("type")), "Transaction")
        return facts.DELETED_TYPES.get(table, table)

    def record_delete(
        self, type: str, id: int, custom: bool = False, by: str = "5", at: float | None = None
    ) -> None:
        """Record a delete. Ids are unique within groups of types only (Oracle, *Internal IDs*)."""
        row = {
            "deleteddate": int(self.now() if at is None else at), "type": type, "recordid": id, "deletedby": by, "context": "UIF",
            "iscustomrecord": "T" if custom else "F", "iscustomlist": "F",
        }  # fmt: skip
        self._insert("deletedrecord", row)

    def note(
        self, table: str, id: int, field: str, old: Any, new: Any, at: float | None = None, by: str = "5"
    ) -> None:
        """Write a system note: display texts; some values are masked."""
        row = {
            "id": self.next_id("systemnote"), "date": int(self.now() if at is None else at), "field": field,
            "oldvalue": None if old is None else str(old), "newvalue": None if new is None else str(new), "recordid": id,
            "recordtypeid": facts.NOTE_TYPES.get(table, 0), "name": by, "context": "UIF", "type": "Change",
        }  # fmt: skip
        self._insert("systemnote", row)

    def set_lines(self, transaction: int, lines: Iterable[Mapping[str, Any]], *, header: bool = True) -> None:
        """Write the lines of a transaction anew, as an update of a sublist without keys does: all ids change (reported).

        Args:
            transaction: the id of the transaction.
            lines: the lines.
            header: whether the time of the header moves.
        """
        (last,) = self.database.execute(
            'SELECT COALESCE(MAX(id), -1) FROM transactionline WHERE "transaction" = ?', (transaction,)
        ).fetchone()
        self.database.execute('DELETE FROM transactionline WHERE "transaction" = ?', (transaction,))
        for n, line in enumerate(lines):
            row = {
                "transaction": transaction, "id": last + 1 + n, "uniquekey": self.next_id("uniquekey"), "linesequencenumber": n,
                **line,
            }  # fmt: skip
            self.create("transactionline", row)
        if header:
            self.update("transaction", transaction, {"lastmodifieddate": int(self.now())})

    def change_line(self, transaction: int, line: int, fields: Mapping[str, Any]) -> None:
        """Change a line while the time of its header stays (reported: fivetran/dbt_netsuite #142)."""
        row = {**fields, "linelastmodifieddate": int(self.now())}
        assigned = ", ".join(f'"{name}" = ?' for name in row)
        self.database.execute(
            f'UPDATE transactionline SET {assigned} WHERE "transaction" = ? AND id = ?',
            (*row.values(), transaction, line),
        )

    def merge(self, source: int, target: int) -> None:
        """Merge a customer into another one: the source is deleted, and all its transactions get the time of now; system notes do
        not follow (Oracle, *Merging duplicates*).
        """
        self.database.execute(
            'UPDATE "transaction" SET entity = ?, lastmodifieddate = ? WHERE entity = ?',
            (target, int(self.now()), source),
        )
        self.delete("customer", source)

    @contextmanager
    def held(self) -> Iterator[Held]:
        """Collect changes whose rows have the time of now; they become visible at the end of the ``with``."""
        made = Held(self)
        yield made
        made.commit()

    def seed(self, table: str, count: int, make: Callable[[int], Mapping[str, Any]], days: int = 365) -> None:
        """Create many rows, changed in the days before yesterday."""
        columns = self._columns(table)
        first, now = self.next_id(table), int(self.now())
        stamps = [n for n in ("createddate", "datecreated", "created", self.stamp_of(table)) if n in columns]
        step = max(days - 3, 1) * 86_400 / max(count, 1)

        def rows() -> Iterator[tuple[Any, ...]]:
            for n in range(count):
                at = int(now - 3 * 86_400 - (count - n) * step)
                fields = {"id": first + n, "isinactive": "F", "subsidiary": 1, **make(n)}
                yield tuple(at if name in stamps else fields.get(name) for name in columns)

        holes = ", ".join("?" for _ in columns)
        self.database.execute("BEGIN")
        self.database.executemany(f'INSERT INTO "{table}" VALUES ({holes})', rows())
        self.database.execute("COMMIT")
        self._next[table] = first + count - 1

    def refresh(self) -> None:
        """Replace the data by that of a production account, as a refresh of a sandbox account does: ids and notes fall back, and
        deletes are forgotten (reported).
        """
        for table in ("deletedrecord", "systemnote", "systemnote2"):
            self.database.execute(f'DELETE FROM "{table}"')
        for table in self.tables.keys() - _LOGS - {"dual"}:
            if self.keys(table) == ("id",):
                (most,) = self.database.execute(f'SELECT MAX(id) FROM "{table}"').fetchone()
                if most:
                    self.database.execute(f'DELETE FROM "{table}" WHERE id = ?', (most,))
                    self._next[table] = most - 1

    def row(self, table: str, id: int) -> Row:
        """Return a row.

        Raises:
            LookupError: there is none.
        """
        cursor = self.database.execute(f'SELECT * FROM "{table}" WHERE id = ?', (id,))
        found = cursor.fetchone()
        if found is None:
            raise LookupError(f"no {table} {id}")
        return dict(zip((c[0] for c in cursor.description), found, strict=True))

    def rows(self, table: str, most: int = 1_000_000) -> list[Row]:
        """Return the rows of a table, newest first."""
        order = ", ".join(f'"{name}" DESC' for name in self.keys(table))
        cursor = self.database.execute(f'SELECT * FROM "{table}" ORDER BY {order} LIMIT {int(most)}')
        names = [c[0] for c in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def displayed(self, value: Any) -> str | None:
        """Return a date or time as it is displayed: without the time."""
        if value is None:
            return None
        moment = (
            datetime.strptime(value, "%Y-%m-%d")  # noqa: DTZ007 - a date
            if isinstance(value, str)
            else datetime.fromtimestamp(int(value), self.zone)
        )
        return moment.strftime(self.date_format)

    def next_id(self, table: str) -> int:
        """Return a new id."""
        found = self._next[table] = self._next.get(table, 0) + 1
        return found

    def _columns(self, table: str) -> dict[str, facts.Type]:
        if table not in self.tables:
            raise LookupError(f"no table {table!r:.60}")
        return self.tables[table]

    def _insert(self, table: str, row: Mapping[str, Any]) -> None:
        names = ", ".join(f'"{name}"' for name in row)
        holes = ", ".join("?" for _ in row)
        self.database.execute(f'INSERT INTO "{table}" ({names}) VALUES ({holes})', tuple(row.values()))


class Held:
    """A transaction of the database that commits late: its rows have the time at which it began to write them, and appear behind
    later ones (not confirmed for NetSuite's own lag; scripts and imports of many rows do so in any database).
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self._work: list[Callable[[], object]] = []

    def create(self, table: str, fields: Mapping[str, Any]) -> int:
        """Create a row when this commits, with the time of now; return its id."""
        account, at = self._account, self._account.now()
        id = account.next_id(table)
        self._work.append(lambda: account.create(table, {**fields, "id": id}, at=at))
        return id

    def update(self, table: str, id: int, fields: Mapping[str, Any]) -> None:
        """Change a row when this commits, with the time of now."""
        account, at = self._account, self._account.now()
        self._work.append(lambda: account.update(table, id, fields, at=at))

    def commit(self) -> None:
        """Make the changes visible."""
        for work in self._work:
            work()
        self._work.clear()
