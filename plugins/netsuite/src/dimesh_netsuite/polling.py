"""The stream of an object: deletes from ``deletedrecord``, then rows by the time of their last change, poll by poll.

The time in a row is set when its transaction begins to write it, the row appears when the transaction commits, and times have
whole seconds. So each poll starts a little before the last one, and at an interval the whole overlap is read again; rows that
were returned in the same state are left out. NetSuite keeps rows and no changes: a row that changed twice between two polls is
one change.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import msgspec

from dimesh.clock import Clock
from dimesh.contact import report_delivered
from dimesh.errors import SourcePositionLostError
from dimesh.sourcekit.budget import Priority
from dimesh.sourcekit.positions import PositionCodec
from dimesh.sourcekit.wakeups import WakeUp
from dimesh.spi.cdc import Change, ChangeBatch
from dimesh_netsuite.client import Client
from dimesh_netsuite.deletes import Deleted, Deletes, horizon
from dimesh_netsuite.known import Known
from dimesh_netsuite.lines import Lines
from dimesh_netsuite.notes import Notes, told_by
from dimesh_netsuite.options import NetSuiteOptions
from dimesh_netsuite.parents import Children
from dimesh_netsuite.reader import Reader
from dimesh_netsuite.records import Table
from dimesh_netsuite.rows import Key, Read, delete_change, polled_change, row_change, time_of
from dimesh_netsuite.suiteql import stamp_text
from dimesh_netsuite.timezone import WIDER, AccountClock, wide_until
from dimesh_netsuite.watch import Size, Watch

BACK: Final = 5.0
"""The number of seconds that a poll goes back at least: the clocks of NetSuite's servers differ a little."""
_KEPT_DELETES: Final = 500


class PollPosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The position in an object. Times are seconds since the epoch, by NetSuite's clock."""

    full: float
    """The beginning of the last complete poll that read the whole overlap."""
    mark: float
    """The beginning of the last complete poll."""
    floor: str
    known: list[tuple[str, str, str, str]]
    cursor: tuple[str, list[str]] | None = None
    """The stamp and the key after which a poll that was interrupted continues."""
    deletes: list[tuple[str, str]] = []
    """The ids and times of deletes that were returned lately."""
    offset: int | None = None
    """The offset of the account's time from UTC, in minutes."""
    wide: float = 0.0
    """The time until which the overlap is longer."""
    count: int | None = None
    """The number of rows when they were counted last."""
    newest: int | None = None
    """The largest id when the rows were counted last."""


POSITIONS: Final = PositionCodec(PollPosition, "NetSuite")


class Polling:
    """Streams one object.

    Args:
        table: the table.
        options: of the source.
        clock: for the intervals.
        client: requests.
        reader: reads the rows.
        deletes: reads the deletes.
        notes: reads the system notes.
        lines: adds lines.
        account_clock: the clock of the account.
    """

    def __init__(
        self,
        table: Table,
        options: NetSuiteOptions,
        clock: Clock,
        client: Client,
        reader: Reader,
        deletes: Deletes,
        notes: Notes,
        lines: Lines,
        account_clock: AccountClock,
    ) -> None:
        self._table = table
        self._options = options
        self._clock = clock
        self._client = client
        self._reader = reader
        self._deletes = deletes
        self._notes = notes
        self._lines = lines
        self._account_clock = account_clock
        self._watch = Watch(table, reader, deletes, client)
        self._children = Children(reader)

    # -- the first position ------------------------------------------------------------------------

    async def position(self) -> bytes:
        """Return the current position. It knows the rows of the overlap: the snapshot has them."""
        table = self._table
        columns = await self._reader.columns.of(table)
        moment = await self._account_clock.probe()
        now = min(moment.now, self._client.time())
        lower = stamp_text(now - self._options.overlap)
        known = Known(stamp_text(now - self._options.overlap - 1.0))
        returned: list[tuple[str, str]] = []
        if self._deletes.tracked(table):
            returned = [(found.id, found.stamp) for found in await self._deletes.since(table, lower)]
        cursor: tuple[str, Key] | None = None
        while columns.stamp is not None:
            page = await self._reader.changed(table, lower, cursor, Priority.STREAM)
            for read in await self._lines.added(table, page.rows, Priority.STREAM):
                known.add(read, read.stamp or "")
            if not page.more or page.last is None:
                break
            cursor = (page.stamp, page.last)
        if self._lines.wanted(table):
            async for reads in self._lines.touched(lower):
                for read in await self._lines.added(table, reads, Priority.STREAM):
                    if known.get(read.key) is None:
                        known.add(read, stamp_text(now))
        if table.parent is not None:
            async for parent_stamp, reads, _ in self._children.changed(table, lower):
                for read in reads:
                    known.add(read, parent_stamp)
        size = await self._watch.size()
        floor, entries = known.entries()
        return POSITIONS.encode(
            PollPosition(
                now,
                now,
                floor,
                entries,
                None,
                returned[-_KEPT_DELETES:],
                moment.offset,
                0.0,
                size.rows,
                size.newest,
            )
        )

    # -- the stream --------------------------------------------------------------------------------

    async def stream(self, position: bytes, wake_up: WakeUp) -> AsyncIterator[ChangeBatch]:
        """Yield changes after a position."""
        table, options = self._table, self._options
        at = POSITIONS.decode(position, table.name)
        known = Known(at.floor, at.known)
        columns = await self._reader.columns.of(table)
        last_full = float("-inf")
        checked = float("-inf")
        returned = dict(at.deletes)
        gone = 0
        while True:
            wake_up.clear()
            ours, monotonic = self._clock.time(), self._clock.monotonic()
            full = monotonic - last_full >= options.reread
            if full:
                moment = await self._account_clock.probe()
                if last_full == float("-inf"):
                    self._check_age(at, moment.now)
                at = _changed(at, offset=moment.offset, wide=wide_until(at.offset, moment, at.wide))
            now = max(int(self._client.time()), int(at.mark))
            begin = at.full - options.overlap - (WIDER if at.wide > now else 0.0) if full else at.mark - BACK
            new_since = stamp_text(at.full - options.overlap - (WIDER if at.wide > at.full else 0.0))
            if self._deletes.tracked(table):
                removed = await self._deleted(known, returned, stamp_text(begin))
                if removed:
                    at = _changed(at, deletes=list(returned.items())[-_KEPT_DELETES:])
                    gone += len(removed)
                    yield ChangeBatch(removed, self._encode(at, known))
            if monotonic - checked >= min(3_600.0, options.refresh or 3_600.0) and table.parent is None:
                checked = monotonic
                size = await self._watch.size()
                gap = await self._watch.problem(size, Size(at.count, at.newest), gone)
                at, gone = _changed(at, count=size.rows, newest=size.newest), 0
                if gap is not None:
                    yield ChangeBatch([gap], self._encode(at, known))
            if columns.stamp is not None:
                cursor = (at.cursor[0], tuple(at.cursor[1])) if at.cursor is not None else None
                while True:
                    page = await self._reader.changed(table, stamp_text(begin), cursor, Priority.STREAM)
                    changes = await self._new(page.rows, known, stamp_text(begin), new_since)
                    more = page.more and page.last is not None
                    if page.last is not None:
                        cursor = (page.stamp, page.last)
                    if more and cursor is not None and full:
                        at = _changed(at, cursor=(cursor[0], list(cursor[1])))
                    if changes:
                        yield ChangeBatch(changes, self._encode(at, known))
                    if not more:
                        break
            if self._lines.wanted(table):
                async for reads in self._lines.touched(stamp_text(begin)):
                    changes = await self._new(reads, known, stamp_text(begin), new_since, stamp_text(now))
                    if changes:
                        yield ChangeBatch(changes, self._encode(at, known))
            if table.parent is not None:
                async for parent_stamp, reads, lost in self._children.changed(table, stamp_text(begin)):
                    changes = await self._new(reads, known, stamp_text(begin), new_since, parent_stamp)
                    changes += self._removed(lost, parent_stamp, known)
                    if changes:
                        yield ChangeBatch(changes, self._encode(at, known))
            if full:
                last_full = monotonic
                oldest = stamp_text(now - options.overlap - WIDER - 60.0)
                known.prune(oldest)
                returned = {id: stamp for id, stamp in returned.items() if stamp >= oldest}
            at = _changed(at, mark=float(now), full=float(now) if full else at.full, cursor=None)
            yield ChangeBatch((), self._encode(at, known))
            if full:
                report_delivered(ours)
            await wake_up.wait(options.poll)

    def _check_age(self, at: PollPosition, now: float) -> None:
        days = self._options.delete_retention
        if self._deletes.tracked(self._table) and stamp_text(at.mark) < horizon(now, days):
            raise SourcePositionLostError(
                f"the position of {self._table.name} is older than {days:g} days (delete_retention): records of deletes may "
                "be gone, "
                "so that all rows must be read again"
            )

    async def _new(
        self, rows: Sequence[Read], known: Known, begin: str, new_since: str, found_by: str | None = None
    ) -> list[Change]:
        """Return the changes of rows that are not in the state that was returned last.

        Args:
            rows: the rows.
            known: the rows that were returned.
            begin: the beginning of the poll.
            new_since: a row that was created before is an update. It follows from the position, so that the same change is the
                same after a restart.
            found_by: the time by which the rows were found, if that is not their own.
        """
        table = self._table
        rows = await self._lines.added(table, rows, Priority.STREAM)
        new: list[tuple[Read, bool, bool]] = []
        for read in rows:
            seen = known.get(read.key)
            if seen is None or seen.digest != read.digest:
                stamp = found_by or read.stamp or ""
                # Whether the row was returned before is not known: the runner compares it with what was published.
                unsure = seen is None and stamp <= known.floor
                inserted = seen is None and read.created is not None and read.created >= new_since
                new.append((read, unsure, inserted))
        if not new:
            return []
        at = datetime.fromtimestamp(self._client.time(), UTC)
        notes = await self._notes.of(table, [read.key[0] for read, *_ in new], begin)
        changes = []
        for read, unsure, inserted in new:
            seen = known.add(read, found_by or read.stamp or "")
            if unsure:
                changes.append(row_change(table, read, at.timestamp()))
                continue
            identity = f"{table.name}:{':'.join(read.key)}:{read.stamp or found_by or ''}:{seen.chain}"
            told = notes.get(read.key[0], [])
            change = polled_change(table, read, identity, inserted, at, told_by(told))
            actor = next((note["by"] for note in reversed(told) if note.get("by")), None)
            changes.append(replace(change, actor=str(actor)) if actor is not None else change)
        return changes

    # -- deletes -----------------------------------------------------------------------------------

    async def _deleted(self, known: Known, returned: dict[str, str], begin: str) -> list[Change]:
        """Return the deletes that were not returned yet, of rows that are really gone. A record of a row that is still visible is
        checked again at the next poll: a query may lag behind.

        Args:
            known: the rows that were returned.
            returned: the times of the deletes that were returned, by id; the new ones are added.
            begin: the time from which deletes are read.
        """
        table = self._table
        if table.parent is not None:
            return []
        found = [d for d in await self._deletes.since(table, begin) if returned.get(d.id) != d.stamp]
        if not found:
            return []
        keys: list[Key] = [(deleted.id,) for deleted in found]
        present = await self._reader.keys_of(table, keys, Priority.STREAM)
        now = datetime.fromtimestamp(self._client.time(), UTC)
        changes: list[Change] = []
        for key, deleted in zip(keys, found, strict=True):
            if key not in present:
                returned[deleted.id] = deleted.stamp
                known.forget(key)
                changes.append(self._delete(key, deleted, now))
        return changes

    def _delete(self, key: Key, deleted: Deleted, now: datetime) -> Change:
        return delete_change(
            self._table,
            key,
            time_of(deleted.stamp, now),
            identity=f"{self._table.name}:{deleted.id}:deleted:{deleted.stamp}",
            actor=deleted.actor,
            metadata=deleted.metadata,
        )

    def _removed(self, keys: Sequence[Key], stamp: str, known: Known) -> list[Change]:
        """Return the deletes of lines that an update of their transaction removed."""
        now = datetime.fromtimestamp(self._client.time(), UTC)
        for key in keys:
            known.forget(key)
        return [
            delete_change(
                self._table,
                key,
                time_of(stamp, now),
                identity=f"{self._table.name}:{':'.join(key)}:removed:{stamp}",
                metadata={"found_by": "the lines of the transaction"},
            )
            for key in keys
        ]

    def _encode(self, at: PollPosition, known: Known) -> bytes:
        floor, entries = known.entries()
        return POSITIONS.encode(_changed(at, floor=floor, known=entries))


def _changed(at: PollPosition, **fields: object) -> PollPosition:
    return msgspec.structs.replace(at, **fields)
