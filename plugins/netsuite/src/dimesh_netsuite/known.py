"""The rows that a stream has returned lately, so that reading the overlap again returns only what is new."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, NamedTuple

from dimesh_netsuite.rows import Key, Read, chained

KEPT: Final = 2_000
"""The largest number of rows that a position remembers."""
HELD: Final = 200_000
"""The largest number of rows that a stream remembers."""


class Seen(NamedTuple):
    """What was returned of a row."""

    stamp: str
    digest: str
    chain: str
    """The digest of all states of the row that were returned, one after the other."""


class Known:
    """The rows of the overlap.

    Args:
        floor: the stamp up to which rows may be missing here: a row of before that is not known may have been returned.
        entries: rows as :meth:`entries` returned them.
    """

    def __init__(self, floor: str, entries: Iterable[tuple[str, str, str, str]] = ()) -> None:
        self.floor = floor
        self._seen: OrderedDict[str, Seen] = OrderedDict(
            (key, Seen(stamp, digest, chain or digest)) for key, stamp, digest, chain in entries
        )

    def __len__(self) -> int:
        return len(self._seen)

    def get(self, key: Key) -> Seen | None:
        """Return what was returned of a row; None: nothing, as far as is known."""
        return self._seen.get(":".join(key))

    def add(self, read: Read, stamp: str) -> Seen:
        """Remember that a row is returned now.

        Args:
            read: the row.
            stamp: the time by which it was found.
        """
        name = ":".join(read.key)
        before = self._seen.pop(name, None)
        chain = read.digest if before is None else chained(before.chain, read.digest)
        found = self._seen[name] = Seen(stamp, read.digest, chain)
        if len(self._seen) > HELD:
            _, oldest = self._seen.popitem(last=False)
            self.floor = max(self.floor, oldest.stamp)
        return found

    def forget(self, key: Key) -> None:
        """Forget a row that was deleted."""
        self._seen.pop(":".join(key), None)

    def prune(self, stamp: str) -> None:
        """Forget the rows that were found by a time before ``stamp``: they are not read again."""
        gone = [key for key, seen in self._seen.items() if seen.stamp < stamp]
        for key in gone:
            del self._seen[key]
        if gone:
            self.floor = max(self.floor, stamp)

    def entries(self) -> tuple[str, list[tuple[str, str, str, str]]]:
        """Return the floor and the rows to remember in a position."""
        rows = list(self._seen.items())
        floor = self.floor
        if len(rows) > KEPT:
            floor = max(floor, max(seen.stamp for _, seen in rows[:-KEPT]))
            rows = rows[-KEPT:]
        return floor, [
            (key, seen.stamp, seen.digest, "" if seen.chain == seen.digest else seen.chain)
            for key, seen in rows
        ]
