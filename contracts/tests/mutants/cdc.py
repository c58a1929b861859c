"""Change sources with one fault each: the outbox, made worse."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from catalogue import Mutant

from dimesh.backends.outbox import OutboxOptions, OutboxSource, watch
from dimesh.clock import SystemClock
from dimesh.errors import SourceObjectError, SourcePositionLostError
from dimesh.spi.cdc import Change, ChangeBatch, Operation
from dimesh_contracts.cdc import CDCGuarantee as G


class Application:
    """A watched table of an application."""

    object = "things"

    def __init__(self, folder: Path) -> None:
        self._connection = sqlite3.connect(folder / "app.db", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=OFF")
        self._connection.execute("CREATE TABLE things (key TEXT PRIMARY KEY, value TEXT)")
        watch(self._connection, "things")

    async def put(self, key: str, value: str) -> None:
        self._connection.execute(
            "INSERT INTO things VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, value),
        )

    async def delete(self, key: str) -> None:
        self._connection.execute("DELETE FROM things WHERE key = ?", (key,))

    def key(self, change: Change) -> str:
        return str(change.primary_key["key"])

    def value(self, row: Any) -> str:
        return str(row["value"])

    def close(self) -> None:
        self._connection.close()


class Outbox(OutboxSource):
    def __init__(self, folder: Path) -> None:
        super().__init__(OutboxOptions(path=str(folder / "app.db"), poll=0.01), SystemClock())


class StreamOnly(Outbox):
    """Streams whose changes go through ``alter``."""

    def alter(self, changes: list[Change]) -> list[Change]:
        return changes

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        async for batch in super().stream(object, position):
            yield replace(batch, items=self.alter([c for c in batch.items if isinstance(c, Change)]))


class DropsTheLastRow(Outbox):
    async def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        async for batch in super().snapshot(object, resume):
            yield replace(batch, items=batch.items[:-1] if len(batch.items) % 10 == 3 else batch.items)


class TakesThePositionLate(Outbox):
    late = False

    async def position(self, object: str) -> bytes:
        self.taken = await super().position(object)
        return self.taken

    async def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        async for batch in super().snapshot(object, resume):
            yield batch
        self.later = await super().position(object)

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        if position == getattr(self, "taken", None):
            position = getattr(self, "later", position)
        async for batch in super().stream(object, position):
            yield batch


class OnlyTheLastState(StreamOnly):
    def alter(self, changes: list[Change]) -> list[Change]:
        last = {str(c.primary_key): c for c in changes}
        return [c for c in changes if last[str(c.primary_key)] is c]


class DropsDeletes(StreamOnly):
    def alter(self, changes: list[Change]) -> list[Change]:
        return [c for c in changes if c.operation is not Operation.DELETE]


class BeforeIsNow(StreamOnly):
    def alter(self, changes: list[Change]) -> list[Change]:
        return [replace(c, before=c.after if c.after is not None else c.before) for c in changes]


class IdentityOfTheReading(StreamOnly):
    def alter(self, changes: list[Change]) -> list[Change]:
        return [replace(c, identity=uuid.uuid4().hex) for c in changes]


class IdentityOfTheContent(StreamOnly):
    def alter(self, changes: list[Change]) -> list[Change]:
        return [replace(c, identity=f"{c.primary_key}{c.after}") for c in changes]


class StartsSomewhere(Outbox):
    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        while True:
            try:
                async for batch in super().stream(object, position):
                    yield batch
            except SourcePositionLostError:
                position = await self.position(object)


class PositionsAhead(Outbox):
    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        async for batch in super().stream(object, position):
            identity, _, at = batch.position.partition(b":")
            yield replace(batch, position=identity + b":" + str(int(at) + 1).encode())


class RemembersWhatItFetched(Outbox):
    fetched = b""

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        def number(at: bytes) -> int:
            return int(at.rpartition(b":")[2] or b"0") if at else -1

        async for batch in super().stream(object, max(position, self.fetched, key=number)):
            self.fetched = batch.position
            await asyncio.sleep(0.001)  # cancelled here, the batch is gone
            yield batch


class EmptyFeed(Outbox):
    async def position(self, object: str) -> bytes:
        try:
            return await super().position(object)
        except SourceObjectError:
            return b"nothing:0"


MUTANTS = [
    Mutant("drops-last-row", G.SNAPSHOT, "leaves the last row of some pages out", DropsTheLastRow),
    Mutant("late-position", G.HAND_OVER, "streams from after the snapshot", TakesThePositionLate),
    Mutant("last-state", G.COMPLETE, "shows only the last of several changes of a row", OnlyTheLastState),
    Mutant("drops-deletes", G.DELETES, "reports no deletes", DropsDeletes),
    Mutant("before-is-now", G.BEFORE, "gives the row as it is for the row as it was", BeforeIsNow),
    Mutant(
        "identity-by-reading",
        G.IDENTITY,
        "gives a change another identity at each reading",
        IdentityOfTheReading,
    ),
    Mutant("identity-by-content", G.IDENTITY, "gives equal changes one identity", IdentityOfTheContent),
    Mutant(
        "starts-somewhere",
        G.POSITION_LOST,
        "goes on at the latest when it does not know a position",
        StartsSomewhere,
    ),
    Mutant("positions-ahead", G.RESUME, "gives positions that are one change ahead", PositionsAhead),
    Mutant(
        "remembers",
        G.CANCELLATION,
        "goes on behind what it fetched, whatever came out",
        RemembersWhatItFetched,
    ),
    Mutant("empty-feed", G.UNKNOWN_OBJECT, "gives an empty feed for an object that is not there", EmptyFeed),
]
