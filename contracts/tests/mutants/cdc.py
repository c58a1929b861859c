"""Change sources with one fault each: the outbox, made worse."""

from __future__ import annotations

import asyncio
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from catalogue import Mutant

from dimesh.backends.outbox import OutboxOptions, OutboxSource, watch
from dimesh.clock import SystemClock
from dimesh.errors import CredentialsError, SourceObjectError, SourcePositionLostError
from dimesh.spi.cdc import Change, ChangeBatch, Operation
from dimesh_contracts.cdc import CDCGuarantee as G

EXPIRED, REFUSES, REFUSED = "expired", "refuses until", "refused"
"""Files by which the system says that credentials are expired, until when it refuses requests, and how many it refused."""


class Application:
    """A watched table of an application."""

    object = "things"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
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

    async def lose_history(self) -> None:
        (last,) = self._connection.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = 'dimesh_outbox'"
        ).fetchone()
        self._connection.execute("DELETE FROM dimesh_outbox")
        self._connection.execute(
            "INSERT OR REPLACE INTO dimesh_outbox_meta VALUES ('trimmed:things', ?)", (str(last),)
        )

    async def expire_credentials(self) -> None:
        (self._folder / EXPIRED).touch()

    async def renew_credentials(self) -> None:
        (self._folder / EXPIRED).unlink(missing_ok=True)

    async def refuse_requests(self, seconds: float) -> None:
        (self._folder / REFUSES).write_text(str(time.time() + seconds))

    def refused(self) -> int:
        found = self._folder / REFUSED
        return found.stat().st_size if found.exists() else 0

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


class PagesByNumber(Outbox):
    async def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        number = int(resume or b"0")
        while True:
            rows = [item async for batch in super().snapshot(object, None) for item in batch.items]
            page = rows[number * 100 : (number + 1) * 100]
            if not page:
                return
            number += 1
            yield ChangeBatch(page, str(number).encode())


class RemembersItsRows(Outbox):
    remembered: list[ChangeBatch] | None = None

    async def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        if self.remembered is None:
            self.remembered = [batch async for batch in super().snapshot(object, resume)]
        for batch in self.remembered:
            yield batch


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


class SkipsWhatIsForgotten(Outbox):
    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        try:
            async for batch in super().stream(object, position):
                yield batch
        except SourcePositionLostError as error:
            if "removed" not in str(error):
                raise
            async for batch in super().stream(object, await self.position(object)):
                yield batch


class Asked(Outbox):
    """Asks the system for its changes, which may refuse."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folder = folder

    def request(self) -> None:
        if (self._folder / EXPIRED).exists():
            raise CredentialsError("the credentials are expired")
        until = self._folder / REFUSES
        if until.exists() and time.time() < float(until.read_text()):
            with (self._folder / REFUSED).open("a") as counted:
                counted.write(".")
            raise ConnectionRefusedError(until.read_text())

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        while True:
            try:
                self.request()
            except ConnectionRefusedError as error:
                await self.refused(float(str(error)))
                continue
            except CredentialsError:
                position = await self.expired(object, position)
                continue
            _, changes, position = await self._run(partial(self._entries, object, position, None))
            if changes:
                yield ChangeBatch(changes, position)
            await asyncio.sleep(0.01)

    async def refused(self, until: float) -> None:
        await asyncio.sleep(until - time.time())

    async def expired(self, object: str, position: bytes) -> bytes:
        raise CredentialsError("the credentials are expired")


class TriesAtOnce(Asked):
    async def refused(self, until: float) -> None:
        await asyncio.sleep(0.005)


class WaitsForCredentials(Asked):
    async def expired(self, object: str, position: bytes) -> bytes:
        await asyncio.sleep(0.01)
        return await self.position(object)


class DescribesInPart(Outbox):
    async def schema(self, object: str) -> Mapping[str, Any] | None:
        found = await super().schema(object)
        return found and {**found, "properties": dict(list(found["properties"].items())[1:])}


class EmptyFeed(Outbox):
    async def position(self, object: str) -> bytes:
        try:
            return await super().position(object)
        except SourceObjectError:
            return b"nothing:0"


MUTANTS = [
    Mutant("drops-last-row", G.SNAPSHOT, "leaves the last row of some pages out", DropsTheLastRow),
    Mutant(
        "pages-by-number", G.SNAPSHOT, "reads pages by their number while rows are deleted", PagesByNumber
    ),
    Mutant(
        "remembers-rows",
        G.REPAIR,
        "shows the rows of its first reading when it is to read anew",
        RemembersItsRows,
    ),
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
    Mutant(
        "skips-forgotten",
        G.GAPS,
        "goes on after changes that are forgotten, and says nothing",
        SkipsWhatIsForgotten,
    ),
    Mutant("tries-at-once", G.BUDGET, "asks again at once when it is told to wait", TriesAtOnce),
    Mutant(
        "waits-for-credentials",
        G.CREDENTIALS,
        "waits in silence while its credentials are expired, and goes on from then",
        WaitsForCredentials,
    ),
    Mutant("describes-in-part", G.DESCRIBED, "leaves a field out of its description", DescribesInPart),
    Mutant("empty-feed", G.UNKNOWN_OBJECT, "gives an empty feed for an object that is not there", EmptyFeed),
]
