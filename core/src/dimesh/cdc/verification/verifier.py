"""Verifies one object: reads rows, suspects those that differ from what was published, and confirms each suspicion or drops it.

Rows come from both sides. Keys of published rows are drawn from the store, each with the same chance, and asked for one by one:
that finds deletes that were lost. And from such a key on, the source lists rows until a number of published ones is among them,
past its last row from the first one on. Each row at the source is in such a list with the same chance, also a row that was
never published.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from dimesh.cdc.absences import split
from dimesh.cdc.events import row_key
from dimesh.cdc.verification.comparison import Comparison, Difference, Incomparable, Kind, compare
from dimesh.cdc.verification.sampling import pages
from dimesh.cdc.verification.standing import Feed
from dimesh.cdc.verification.tally import FeedError, Tally
from dimesh.clock import Clock
from dimesh.spi.cdc import CDCSource, Change, LeavesOutFields, ReadsRows, Relists, SamplesRows
from dimesh.spi.state import RowStore

FEED_LAG: Final = 60.0
"""The seconds that the stream of a source that does not say how long it needs is given."""
READ_AT_ONCE: Final = 100
"""The number of rows that are asked for together."""
MOST_SUSPICIONS: Final = 1_000
"""The number of suspicions from which on they are settled before more rows are drawn."""
_MOST_PAGES: Final = 10
"""The largest number of pages of one list: a longer stretch of unpublished rows is found without reading all of it."""
_SETTLE_AT_ONCE: Final = 20
"""The number of suspicious rows that are read again together: what is stored of them must not change meanwhile."""
_MOST_READINGS: Final = 8
"""The number of readings after which a row that changes all the time is left out."""


class Deletes(Protocol):
    """What knows which deletes were published."""

    async def deleted(self, keys: Collection[str]) -> frozenset[str]:
        """Return those keys of rows of which a delete was published."""
        ...


@dataclass(slots=True)
class _Draw:
    pending: int = 0
    rows: int = 0
    wrong: bool = False


@dataclass(slots=True)
class _Suspicion:
    difference: Difference
    at: float
    """When the row was read last, by our clock."""
    draw: _Draw
    readings: int = 1
    seen: int = 1
    """The number of readings in a row that showed the difference."""


class Verifier:
    """Verifies one object of one connector.

    Args:
        source: the source, open.
        object_: the object.
        store: the store of the connector's rows.
        key: the key of the object's rows in the store.
        feed: the capture of the object.
        deletes: knows which deletes were published.
        clock: time.
    """

    def __init__(
        self,
        source: CDCSource,
        object_: str,
        store: RowStore,
        key: str,
        feed: Feed,
        deletes: Deletes,
        clock: Clock,
    ) -> None:
        self.object = object_
        self.feed = feed
        self.tally = Tally(clock.time())
        self.source = source
        self._store = store
        self.key = key
        self._deletes = deletes
        self._clock = clock
        self._suspicions: dict[str, _Suspicion] = {}
        self._not_current: dict[str, Mapping[str, str]] = {}
        self._lists: bool | None = None

    @property
    def pending(self) -> int:
        """The number of suspicions that are neither confirmed nor dropped yet."""
        return len(self._suspicions)

    @property
    def settling(self) -> float:
        """The number of seconds that the stream must be past a reading before a difference is an error."""
        source = self.source
        feed_lag = source.feed_lag if isinstance(source, SamplesRows) else FEED_LAG
        interval = source.relist_interval(self.object) if isinstance(source, Relists) else None
        if interval is not None:  # only the next listing shows some changes, and listings have pauses
            feed_lag += 2 * interval
        return feed_lag + (source.read_lag if isinstance(source, ReadsRows) else 0.0)

    # -- drawing ---------------------------------------------------------------------------------

    async def check_published(self, keys: Sequence[str]) -> None:
        """Ask the source about published rows.

        Raises:
            SourceObjectError, CredentialsError, SourceUnavailableError
        """
        for begin in range(0, len(keys), READ_AT_ONCE):
            answers = await self._ask(keys[begin : begin + READ_AT_ONCE])
            await self._examine(answers, {key: _Draw() for key in answers})

    async def lists(self) -> bool:
        """Return whether the source can list rows of this object from the middle.

        Raises:
            SourceObjectError, CredentialsError, SourceUnavailableError
        """
        if self._lists is None:
            source = self.source
            self._lists = isinstance(source, SamplesRows) and (
                await source.rows_after(self.object, None, 1) is not None
            )
        return self._lists

    async def check_listed(self, anchor: str, most: int) -> None:
        """List rows at the source from a published one on, until ``most`` published rows are among them.

        Args:
            anchor: the key of a published row; empty: list the first rows, since none was published.
            most: the number of published rows.

        Raises:
            SourceObjectError, CredentialsError, SourceUnavailableError
        """
        assert isinstance(self.source, SamplesRows)
        name = self.object
        after: Mapping[str, Any] | None = None
        if anchor:
            name, after = split(anchor, self.object)
        found: dict[str, Change | None] = {}
        known, wrapped, size = 0, not anchor, min(most, READ_AT_ONCE)
        for _ in range(_MOST_PAGES):
            page = await self.source.rows_after(name, after, size)
            if page is None:
                if anchor and not found:
                    await self.check_published([anchor])  # the source does not list the row: was it deleted?
                break
            keys = [row_key(change, self.object) for change in page]
            published = await self._store.existing(self.key, keys)
            for key, change in zip(keys, page, strict=True):
                if key in found or key == anchor or known >= most:
                    break
                found[key] = change
                known += key in published
            else:
                if len(page) >= size:
                    after = page[-1].primary_key
                    continue
                if not wrapped:
                    wrapped, after = True, None
                    continue
            break
        draw = _Draw()
        await self._examine(found, dict.fromkeys(found, draw))

    async def check_all(self) -> AsyncIterator[int]:
        """Compare all rows, and yield the number of rows so far. Rows that the source lists come first, then published rows
        that it did not list.

        Raises:
            SourceObjectError, CredentialsError, SourceUnavailableError
        """
        listed: set[int] = set()
        done = 0
        async with aclosing(cast(Any, self.source.snapshot(self.object, None))) as batches:
            async for batch in batches:
                rows = {row_key(item, self.object): item for item in batch.items if isinstance(item, Change)}
                listed.update(map(hash, rows))
                await self._examine(rows, {key: _Draw() for key in rows})
                done += len(rows)
                yield done
        async for page in pages(self._store, self.key):
            left = [key for key in page if hash(key) not in listed]
            for begin in range(0, len(left), READ_AT_ONCE):
                some = left[begin : begin + READ_AT_ONCE]
                await self.check_published(some)
                done += len(some)
                yield done

    # -- settling --------------------------------------------------------------------------------

    async def settle(self) -> int:
        """Read those suspicious rows again whose first reading the stream is past; return the number of errors that were
        confirmed.

        Raises:
            SourceObjectError, CredentialsError, SourceUnavailableError
        """
        standing = await self.feed.standing()
        if standing.obstacle is not None:
            return 0
        latest = standing.delivered_until - self.settling
        due = [key for key, suspicion in self._suspicions.items() if suspicion.at <= latest]
        before = self.tally.differing
        for begin in range(0, len(due), _SETTLE_AT_ONCE):
            some = due[begin : begin + _SETTLE_AT_ONCE]
            # Reading takes time, in which changes are published: what is stored must be the same before and after it.
            stored = await self._store.existing(self.key, some)
            answers = await self._ask(some)
            after = await self._store.existing(self.key, some)
            compared = await self._compare(answers, after)
            now = self._clock.time()
            # A repair that began meanwhile changes what was published.
            if (await self.feed.standing()).obstacle is not None:
                break
            confirmed: dict[str, Difference] = {}
            for key, comparison in compared.items():
                suspicion = self._suspicions[key]
                later = comparison.difference
                if later is None:
                    self._drop(key, comparison.incomparable)
                    continue
                persisting = suspicion.difference.persisting(later)
                if (key in stored) != (key in after) or stored.get(key) != after.get(key):
                    persisting = None
                suspicion.at = now
                suspicion.readings += 1
                suspicion.seen = suspicion.seen + 1 if persisting is not None else 1
                suspicion.difference = persisting or later
                if persisting is not None and suspicion.seen >= persisting.readings:
                    confirmed[key] = persisting
                elif suspicion.readings >= _MOST_READINGS:
                    self._drop(key, Incomparable.CHANGING)
            await self._confirm(confirmed)
        return self.tally.differing - before

    def give_up(self) -> None:
        """Count the rows whose suspicions are not settled as not compared."""
        for key in list(self._suspicions):
            self._drop(key, Incomparable.UNSETTLED)

    async def _confirm(self, confirmed: Mapping[str, Difference]) -> None:
        missing = [key for key, difference in confirmed.items() if difference.kind is Kind.MISSING_ROW]
        deleted = await self._deletes.deleted(missing) if missing else frozenset()
        for key, difference in confirmed.items():
            kind = Kind.FALSE_DELETE if key in deleted else difference.kind
            draw = self._suspicions.pop(key).draw
            draw.wrong = True
            self.tally.record(FeedError(key, kind, tuple(sorted(difference.fields))))
            self._count(draw, True)

    def _drop(self, key: str, reason: Incomparable | None) -> None:
        draw = self._suspicions.pop(key).draw
        if reason is not None:
            self.tally.leave_out(reason)
        self._count(draw, reason is None)

    def _count(self, draw: _Draw, compared: bool) -> None:
        """Count a suspicious row of a draw whose suspicion is settled, and the draw with its last row."""
        draw.pending -= 1
        self.tally.rows += compared
        draw.rows += compared
        self._finish(draw)

    def _finish(self, draw: _Draw) -> None:
        if not draw.pending and draw.rows:
            self.tally.draws += 1
            self.tally.wrong_draws += draw.wrong

    # -- reading and comparing -------------------------------------------------------------------

    async def _ask(self, keys: Sequence[str]) -> dict[str, Change | None]:
        """Return the rows as the source has them."""
        found: dict[str, Change | None] = dict.fromkeys(keys)
        if not isinstance(self.source, ReadsRows):
            # Only its list shows the rows of such a source, and a list is not the whole: what it lacks is unknown.
            async with aclosing(cast(Any, self.source.snapshot(self.object, None))) as batches:
                async for batch in batches:
                    for item in batch.items:
                        if isinstance(item, Change) and (key := row_key(item, self.object)) in found:
                            found[key] = item
            return found
        by_name: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
        for key in keys:
            name, primary_key = split(key, self.object)
            by_name.setdefault(name, []).append((key, primary_key))
        for name, rows in by_name.items():
            answers = await self.source.read_rows(name, [primary_key for _, primary_key in rows])
            found.update((key, answer) for (key, _), answer in zip(rows, answers, strict=True))
        return found

    async def _examine(self, rows: Mapping[str, Change | None], draws: Mapping[str, _Draw]) -> None:
        """Compare rows that were just read, and suspect those that differ."""
        compared = await self._compare(rows, await self._store.existing(self.key, list(rows)))
        now = self._clock.time()
        for key, comparison in compared.items():
            if key in self._suspicions:
                continue  # it is counted when its suspicion is settled
            draw = draws[key]
            if comparison.gone:
                continue
            if comparison.incomparable is not None:
                self.tally.leave_out(comparison.incomparable)
            elif comparison.difference is not None:
                draw.pending += 1
                self._suspicions[key] = _Suspicion(comparison.difference, now, draw)
            else:
                draw.rows += 1
                self.tally.rows += 1
            self.tally.skipped.update(comparison.skipped)
        for draw in {id(draw): draw for draw in draws.values()}.values():
            self._finish(draw)

    async def _compare(
        self, rows: Mapping[str, Change | None], stored: Mapping[str, bytes | None]
    ) -> dict[str, Comparison]:
        """Compare rows with what is stored of them."""
        found = {}
        for key, change in rows.items():
            skip = await self._fields_not_current(split(key, self.object)[0])
            found[key] = compare(stored.get(key), key in stored, change, skip, self._stamp)
        return found

    @property
    def _stamp(self) -> str | None:
        return self.source.changed_at if isinstance(self.source, SamplesRows) else None

    async def _fields_not_current(self, name: str) -> Mapping[str, str]:
        if name not in self._not_current:
            source = self.source
            fields = await source.not_current(name) if isinstance(source, LeavesOutFields) else {}
            self._not_current[name] = fields
        return self._not_current[name]
