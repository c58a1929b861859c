"""The records of one object of the sandbox, and the ids of Salesforce."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

from dimesh.sourcekit.sandbox import BASE62, Row
from dimesh_salesforce.sandbox.kinds import Kind

USER: Final = "005000000000001AAA"
_VALUES: Final = {letter: n for n, letter in enumerate(BASE62)}
_KEPT: Final = 4
"""The number of states of a record that are kept."""
_SUFFIX: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"


class Table:
    """The records of an object, by number. Seeded records are computed when they are read, so that they cost no memory.

    Args:
        kind: the object.
        now: the clock.
    """

    def __init__(self, kind: Kind, now: Callable[[], float]) -> None:
        self.kind = kind
        self.last = 0
        """The highest number of a record."""
        self.seeded = 0
        """The number of seeded records."""
        self.deleted: dict[int, Row] = {}
        """The deleted records, by number."""
        self.purged: set[int] = set()
        """The numbers of the deleted records that are no longer in the recycle bin."""
        self.logged_since = 0.0
        """The time before which the log of deletes was purged."""
        self._made: dict[int, Row] = {}
        self.past: dict[str, list[tuple[float, Row]]] = {}
        """The last states of each changed record, each with the time from which it was so."""
        self._now = now
        self._created = now()

    def id(self, number: int) -> str:
        """Return the id of a number: 15 characters, and 3 that encode their case."""
        digits = []
        rest = number
        for _ in range(9):
            rest, digit = divmod(rest, 62)
            digits.append(BASE62[digit])
        return with_suffix(f"{self.kind.prefix}000{''.join(reversed(digits))}")

    def number(self, id: str) -> int:
        """Return the number of an id; for the id of another object 0 or the highest number, by their order."""
        if len(id) not in (15, 18) or not id.startswith(f"{self.kind.prefix}000"):
            return 0 if id[:6] < f"{self.kind.prefix}000" else self.last
        number = 0
        for letter in id[6:15]:
            number = number * 62 + _VALUES.get(letter, 0)
        return number

    def get(self, number: int) -> Row | None:
        """Return a record; None if it does not exist or is deleted."""
        found = self._made.get(number)
        if found is None and 0 < number <= self.seeded and number not in self.deleted:
            found = self._virtual(number)
        return found

    def put(self, number: int, row: Row) -> None:
        """Create or replace a record."""
        past = self.past.setdefault(row["Id"], [])
        if not past and number <= self.seeded:
            past.append((self._created, self._virtual(number)))
        past.append((self._now(), row))
        del past[:-_KEPT]
        self._made[number] = row
        self.deleted.pop(number, None)
        self.last = max(self.last, number)

    def drop(self, number: int) -> Row:
        """Delete a record, and return it."""
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
        """Walk through the records in the order of their ids."""
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
        row |= dict.fromkeys(("CreatedDate", "LastModifiedDate", "SystemModstamp"), moment(self._created))
        for name in ("Name", "LastName"):
            if name in row:
                row[name] = f"{self.kind.name} {number}"
        if "Phone" in row:
            row["Phone"] = f"+49 30 {number:07}"
        return row


def blank(kind: Kind) -> Row:
    """Return a record without values."""
    return {
        name: None
        for name, kind_, _ in kind.columns()
        if kind_ not in ("address", "location") and name != "MasterRecordId"
    }


def moment(seconds: float) -> str:
    """Return a time as the REST API writes it, in whole seconds."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%S.000+0000")


def with_suffix(id: str) -> str:
    """Return the form of 18 characters of an id of 15."""
    suffix = ""
    for begin in (0, 5, 10):
        bits = sum(1 << n for n, letter in enumerate(id[begin : begin + 5]) if letter.isupper())
        suffix += _SUFFIX[bits]
    return id + suffix
