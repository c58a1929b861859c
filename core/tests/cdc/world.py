"""A simulated system: its clock is moved by the test, its feed and its reads lag, and a budget counts its requests."""

from __future__ import annotations

import json
import random
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from dimesh.capabilities import Capabilities, Capability
from dimesh.clock import ManualClock
from dimesh.contact import report_delivered, report_reached
from dimesh.sourcekit.budget import Priority, RateLimiter
from dimesh.spi.cdc import Change, ChangeBatch, CheckResult, Gap, Operation

Row = dict[str, Any]
Alter = Callable[[Change], Sequence[Change]]


class World:
    """The system: rows by id, their history, and the log of their changes. A row is never changed, but replaced.

    Args:
        clock: time.
        rng: everything that is random.
        late: the largest number of seconds until the feed shows a change.
        stale: the largest number of seconds by which a read lags behind.
    """

    def __init__(self, clock: ManualClock, rng: random.Random, late: float = 0.0, stale: float = 0.0) -> None:
        self.clock = clock
        self.rng = rng
        self.late = late
        self.stale = stale
        self.history: dict[str, list[tuple[float, Row | None]]] = {}
        self.log: list[tuple[float, Change]] = []
        """Changes, each with the time from which the feed shows it."""
        self._events = 0
        self._visible: dict[str, float] = {}

    def ids(self) -> list[str]:
        """Return the ids of the rows that exist."""
        return [id for id, versions in self.history.items() if versions[-1][1] is not None]

    def row(self, id: str) -> Row | None:
        """Return a row as it is now."""
        return self.history[id][-1][1] if id in self.history else None

    def put(self, id: str, **fields: Any) -> None:
        """Insert or update a row."""
        old = self.row(id)
        now = self.clock.time()
        new = {**(old or {"id": id}), **fields, "modified": now}
        self._commit(id, new, Operation.INSERT if old is None else Operation.UPDATE, old)

    def delete(self, id: str) -> None:
        """Delete a row."""
        self._commit(id, None, Operation.DELETE, self.row(id))

    def _commit(self, id: str, new: Row | None, operation: Operation, old: Row | None) -> None:
        now = self.clock.time()
        self.history.setdefault(id, []).append((now, new))
        self._events += 1
        when = datetime.fromtimestamp(now, UTC)
        change = Change(
            f"e{self._events}",
            operation,
            "thing",
            {"id": id},
            None,
            new,
            when,
            api_version="1",
        )
        # The feed is in order for each row.
        visible = self._visible[id] = max(now + self.rng.uniform(0, self.late), self._visible.get(id, 0.0))
        self.log.append((visible, change))

    def seen(self, id: str) -> Row | None:
        """Return a row as a read shows it, which may lag behind."""
        versions = self.history.get(id, [])
        at = self.clock.time() - self.rng.uniform(0, self.stale)
        number = bisect_right(versions, at, key=lambda version: version[0])
        return versions[number - 1][1] if number else None


class WorldSource:
    """The source of the world. A page of a list is one request, and so is a single row.

    Args:
        world: the system.
        rate: the number of requests per second of the account.
        poll: the seconds between two polls of the feed.
        alter: what becomes of each streamed change: the fault.
        forge: what becomes of each row of the snapshot.
    """

    system = "world"
    changed_at: str | None = "modified"
    capabilities = Capabilities(Capability.SNAPSHOT, Capability.STREAM, Capability.DELETES)

    def __init__(
        self,
        world: World,
        rate: float = 20.0,
        poll: float = 5.0,
        alter: Alter = lambda change: [change],
        forge: Alter = lambda change: [change],
    ) -> None:
        self.world = world
        self.poll = poll
        self.alter = alter
        self.forge = forge
        self.budget = RateLimiter(rate, world.clock)
        self.verifying = 0
        self.gaps: list[Gap] = []

    @property
    def read_lag(self) -> float:
        return self.world.stale

    @property
    def feed_lag(self) -> float:
        return self.world.late + self.poll

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def check(self) -> CheckResult:
        return CheckResult(True, {"thing": ""})

    async def position(self, object: str) -> bytes:
        return json.dumps([self.world.clock.time() - self.world.late - self.world.stale, []]).encode()

    async def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        rows = [self._row(id, row) for id in sorted(self.world.history) if (row := self.world.seen(id))]
        altered = [made for row in rows for made in self.forge(row)]
        for begin in range(0, len(altered), 100):
            async with self.budget.request(Priority.SNAPSHOT):
                yield ChangeBatch(altered[begin : begin + 100], str(begin).encode())

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        since, read = json.loads(position)
        seen = set(read)
        log = self.world.log
        begin = 0
        while True:
            began = self.world.clock.time()
            async with self.budget.request(Priority.STREAM):
                report_reached()
            while begin < len(log) and log[begin][0] < since - 2 * self.world.late - 60:
                begin += 1  # visible long ago, and so are those before
            fresh = [
                (at, change)
                for at, change in log[begin:]
                if since <= at <= began and change.identity not in seen
            ]
            fresh.sort(key=lambda entry: entry[0])
            seen |= {change.identity for _, change in fresh}
            made: list[Change | Gap] = [new for _, change in fresh for new in self.alter(change)]
            made += self.gaps
            self.gaps = []
            if made:
                kept = [c.identity for at, c in log[begin:] if at > began - 60 and c.identity in seen]
                since = max(since, began - 60)
                yield ChangeBatch(made, json.dumps([since, kept]).encode())
            report_delivered(began)
            await self.world.clock.sleep(self.poll)

    async def read_rows(self, object: str, keys: Sequence[Mapping[str, Any]]) -> Sequence[Change | None]:
        found = []
        for key in keys:
            async with self.budget.request(Priority.SNAPSHOT):
                row = self.world.seen(key["id"])
            now = datetime.fromtimestamp(self.world.clock.time(), UTC)
            gone = Change("gone", Operation.DELETE, "thing", dict(key), None, None, now)
            found.append(self._row(key["id"], row) if row else gone)
        return found

    async def rows_after(
        self, object: str, key: Mapping[str, Any] | None, limit: int
    ) -> Sequence[Change] | None:
        async with self.budget.request(Priority.SNAPSHOT):
            ids = sorted(self.world.history)
            if key is not None and self.world.seen(key["id"]) is None:
                return None
            begin = 0 if key is None else bisect_right(ids, key["id"])
            found: list[Change] = []
            for id in ids[begin:]:
                if len(found) == limit:
                    break
                if row := self.world.seen(id):
                    found.append(self._row(id, row))
            return found

    async def acknowledge(self, object: str, position: bytes) -> None: ...

    def _row(self, id: str, row: Row) -> Change:
        now = datetime.fromtimestamp(self.world.clock.time(), UTC)
        return Change(
            f"row-{id}-{row.get('modified')}", Operation.SNAPSHOT, "thing", {"id": id}, None, row, now,
            api_version="1",
        )  # fmt: skip


class MemoryStore:
    """A capture store in memory."""

    last_state = True

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.stored: dict[str, bytes | None] = {}

    async def load(self, key: str) -> bytes | None:
        return self.values.get(key)

    async def save(self, key: str, value: bytes | None) -> None:
        self.values.pop(key, None)
        if value is not None:
            self.values[key] = value

    async def claim(self, connector_id: str) -> Any:
        class Held:
            def release(self) -> None: ...

        return Held()

    async def paused(self, connector_id: str) -> frozenset[str]:
        return frozenset()

    async def moving(self, connector_id: str) -> Any:
        return None

    async def rollback_uncommitted(self, source: str, committed: int) -> None: ...

    async def rows(self, source: str, keys: Sequence[str]) -> dict[str, bytes]:
        return {key: row for key in keys if (row := self.stored.get(key))}

    async def stage(
        self,
        source: str,
        batch: int,
        rows: Mapping[str, bytes],
        removed: Sequence[str],
        generation: int,
        previous: Mapping[str, bytes | None],
    ) -> None:
        self.stored.update(rows)
        self.stored.update(dict.fromkeys(removed, b""))
        self.generation = generation

    async def mark_seen(self, source: str, keys: Sequence[str], generation: int) -> None:
        for key in keys:
            self.stored.setdefault(key, None)

    async def remove(self, source: str, keys: Sequence[str]) -> None:
        for key in keys:
            self.stored.pop(key, None)

    async def stale_keys(self, source: str, generation: int, limit: int) -> list[str]:
        return []

    async def clear(self, source: str) -> None:
        self.stored.clear()

    async def keys(self, source: str, after: str, limit: int) -> list[str]:
        return sorted(key for key, row in self.stored.items() if key > after and row != b"")[:limit]

    async def existing(self, source: str, keys: Collection[str]) -> dict[str, bytes | None]:
        return {key: self.stored[key] for key in keys if key in self.stored and self.stored[key] != b""}
