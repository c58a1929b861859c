"""Change sources with one fault each, built on the outbox."""

from __future__ import annotations

import asyncio
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from catalogue import Mutant

from dimesh.backends.cdc.outbox import OutboxOptions, OutboxSource, watch
from dimesh.clock import SystemClock
from dimesh.contact import report_delivered
from dimesh.errors import CredentialsError, SourceObjectError, SourcePositionLostError
from dimesh.spi.cdc import Before, Change, ChangeBatch, Gap, Operation
from dimesh_contracts.cdc import CDCGuarantee as G

EXPIRED, REFUSES, REFUSED, PROXY, ANNOUNCED, HIDDEN, SKEW, DERIVED = (
    "expired",
    "refuses until",
    "refused",
    "proxy",
    "announced",
    "hidden",
    "skew",
    "derived",
)
"""Files that record whether the credentials are expired, until when requests are refused, how many were refused, with which status
a proxy answers the next request, whether something was announced, which row lists leave out, how the clocks differ, and the value of the field that changes leave out."""


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

    async def answer_by_proxy(self, status: int, times: int) -> None:
        (self._folder / PROXY).write_text(str(status))

    async def hide(self, key: str) -> None:
        (self._folder / HIDDEN).write_text(key)

    async def put_entries(self, key: str, count: int) -> None:
        await self.put(key, "x" * count)

    def entries(self, row: Any) -> int:
        return len(row["value"])

    silent_object = "things"

    async def put_silently(self, key: str, value: str) -> None:
        self._connection.execute("BEGIN")
        await self.put(key, value)
        self._connection.execute("DELETE FROM dimesh_outbox WHERE id = (SELECT max(id) FROM dimesh_outbox)")
        self._connection.execute("COMMIT")

    def silent_value(self, row: Any) -> str:
        return self.value(row)

    derived_field = "derived"

    async def derive(self, key: str, value: str) -> None:
        (self._folder / DERIVED).write_text(value)

    def derived(self, row: Any) -> str | None:
        return row.get("derived")  # type: ignore[no-any-return]

    async def skew(self, seconds: float) -> None:
        (self._folder / SKEW).write_text(str(seconds))

    async def announce(self) -> None:
        (self._folder / ANNOUNCED).touch()

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
        self._hidden = folder / HIDDEN

    async def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        hidden = self._hidden.read_text() if self._hidden.exists() else None
        async for batch in super().snapshot(object, resume):
            yield replace(batch, items=[c for c in batch.items if c.primary_key != {"key": hidden}])  # type: ignore[union-attr]


class StreamOnly(Outbox):
    """A source whose streamed changes pass through ``alter``."""

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


class RepeatsTheGap(Outbox):
    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        try:
            async for batch in super().stream(object, position):
                yield batch
        except SourcePositionLostError as error:
            if "removed" not in str(error):
                raise
            yield ChangeBatch([Gap(object, str(error))], position)
            async for batch in super().stream(object, await self.position(object)):
                yield batch


class Asked(Outbox):
    """A source that requests its changes from the system, which may refuse."""

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
            _, changes, position = await self._file.read(partial(self._entries, object, position, None))
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


class GivesUpAtAPage(Outbox):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._page = folder / PROXY

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        async for batch in super().stream(object, position):
            if self._page.exists():
                status = self._page.read_text()
                self._page.unlink()
                raise SourceObjectError(f"HTTP {status}")
            yield batch


class DeletesAtAPage(Outbox):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._page = folder / PROXY

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        async for batch in super().stream(object, position):
            if self._page.exists() and batch.items:
                self._page.unlink()
                gone = [
                    replace(c, operation=Operation.DELETE, after=None)
                    for c in batch.items
                    if isinstance(c, Change)
                ]
                batch = replace(batch, items=gone)
            yield batch


class TakesAbsenceForADelete(Outbox):
    async def read_rows(self, object: str, keys: Sequence[Mapping[str, Any]]) -> Sequence[Change | None]:
        now = datetime.now(UTC)
        return [Change("absent", Operation.DELETE, object, dict(key), None, None, now) for key in keys]


class ReadsThePastAgain(Outbox):
    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        identity, _, after = position.decode().partition(":")
        begin = f"{identity}:{max(int(after) - 1, 0)}".encode()
        async for batch in super().stream(object, begin):
            yield batch


class TrustsOurClock(Outbox):
    """Its positions have the time of our clock, and older changes are skipped."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._skew = folder / SKEW

    async def position(self, object: str) -> bytes:
        ahead = -float(self._skew.read_text()) if self._skew.exists() else 0.0
        return await super().position(object) + f"@{time.time() + ahead - 1}".encode()

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        plain, _, since = position.partition(b"@")
        async for batch in super().stream(object, plain):
            changes = [c for c in batch.items if isinstance(c, Change)]
            new = [c for c in changes if not since or c.timestamp.timestamp() >= float(since)]
            yield replace(batch, items=new)


class CutsRows(StreamOnly):
    def alter(self, changes: list[Change]) -> list[Change]:
        return [replace(c, after=c.after and {**c.after, "value": c.after["value"][:10]}) for c in changes]


class LeavesOut(StreamOnly):
    """Its changes lack a field that rows have: the length of the value, say, plus what another table adds."""

    named: tuple[str, ...] = ("derived",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._derived = folder / DERIVED

    async def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        text = self._derived.read_text() if self._derived.exists() else ""
        async for batch in super().snapshot(object, resume):
            changes = [c for c in batch.items if isinstance(c, Change)]
            yield replace(
                batch, items=[replace(c, after={**(c.after or {}), "derived": text}) for c in changes]
            )

    def alter(self, changes: list[Change]) -> list[Change]:
        return [
            replace(
                c, before=None, before_from=Before.NONE, partial=c.after is not None, not_current=self.named
            )
            for c in changes
        ]


class HidesThatAFormulaIsOld(LeavesOut):
    named = ()


class LeavesSilentRows(Outbox):
    def relist_interval(self, object: str) -> float | None:
        return None


class NamesNoRow(Outbox):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._announced = folder / ANNOUNCED

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        async for batch in super().stream(object, position):
            if self._announced.exists() and batch.items:
                self._announced.unlink()
                first = batch.items[0]
                assert isinstance(first, Change)
                nobody = replace(first, identity="announced", primary_key={"key": None})
                batch = replace(batch, items=[nobody, *batch.items])
            yield batch


class ListsFromTheNextKey(Outbox):
    async def rows_after(
        self, object: str, key: Mapping[str, Any] | None, limit: int
    ) -> Sequence[Change] | None:
        found = await super().rows_after(object, key, limit)
        if found is None and key is not None:
            rows = await super().rows_after(object, None, 1_000) or ()
            found = [row for row in rows if row.primary_key["key"] > key["key"]][:limit]
        return found


class SaysItTooEarly(Outbox):
    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        async for batch in super().stream(object, position):
            report_delivered(time.time())
            yield batch


MUTANTS = [
    Mutant(
        "old-formula",
        G.CURRENT,
        "completes a row with the last known value of a formula, and does not say so",
        HidesThatAFormulaIsOld,
    ),
    Mutant("lists-from-next", G.SAMPLED, "lists on from a row that no longer exists", ListsFromTheNextKey),
    Mutant(
        "complete-too-early",
        G.DELIVERED,
        "says that the stream is complete before its last batch is taken over",
        SaysItTooEarly,
    ),
    Mutant("cuts-rows", G.WHOLE, "shows the first ten entries of a list as the whole", CutsRows),
    Mutant(
        "reads-the-past", G.NEW_ONLY, "delivers the last change before the position again", ReadsThePastAgain
    ),
    Mutant("our-clock", G.CLOCK, "makes its first position of our clock", TrustsOurClock),
    Mutant(
        "absent-is-deleted",
        G.ABSENCE,
        "takes a row for deleted that a list leaves out",
        TakesAbsenceForADelete,
    ),
    Mutant(
        "leaves-silent-rows",
        G.SILENT,
        "never lists rows again whose changes the system does not report",
        LeavesSilentRows,
    ),
    Mutant("names-no-row", G.KEYS, "shows an announcement as a row with the key null", NamesNoRow),
    Mutant("drops-last-row", G.SNAPSHOT, "omits the last row of some pages", DropsTheLastRow),
    Mutant(
        "pages-by-number", G.SNAPSHOT, "reads pages by their number while rows are deleted", PagesByNumber
    ),
    Mutant(
        "remembers-rows",
        G.REPAIR,
        "returns the rows of its first snapshot when it must read again",
        RemembersItsRows,
    ),
    Mutant("late-position", G.HAND_OVER, "starts the stream after the snapshot", TakesThePositionLate),
    Mutant("last-state", G.COMPLETE, "shows only the last of several changes of a row", OnlyTheLastState),
    Mutant("drops-deletes", G.DELETES, "reports no deletes", DropsDeletes),
    Mutant("before-is-now", G.BEFORE, "returns the current row as the previous row", BeforeIsNow),
    Mutant(
        "identity-by-reading",
        G.IDENTITY,
        "gives a change a different identity at each read",
        IdentityOfTheReading,
    ),
    Mutant("identity-by-content", G.IDENTITY, "gives equal changes the same identity", IdentityOfTheContent),
    Mutant(
        "starts-somewhere",
        G.POSITION_LOST,
        "continues at the latest when it does not know a position",
        StartsSomewhere,
    ),
    Mutant("positions-ahead", G.RESUME, "gives positions that are one change ahead", PositionsAhead),
    Mutant(
        "remembers",
        G.CANCELLATION,
        "continues after the fetched changes, even if they were not delivered",
        RemembersWhatItFetched,
    ),
    Mutant(
        "skips-forgotten",
        G.GAPS,
        "continues after dropped changes without reporting a gap",
        SkipsWhatIsForgotten,
    ),
    Mutant(
        "repeats-the-gap",
        G.GAPS,
        "reports a gap again when its stream is opened at the position of the gap",
        RepeatsTheGap,
    ),
    Mutant(
        "gives-up-at-a-page", G.UNEXPECTED, "gives an object up when a proxy answers once", GivesUpAtAPage
    ),
    Mutant(
        "deletes-at-a-page",
        G.UNEXPECTED,
        "takes a row for deleted when a proxy answers instead",
        DeletesAtAPage,
    ),
    Mutant("tries-at-once", G.BUDGET, "retries at once when the system requests a delay", TriesAtOnce),
    Mutant(
        "waits-for-credentials",
        G.CREDENTIALS,
        "waits silently while its credentials are expired, and then skips ahead",
        WaitsForCredentials,
    ),
    Mutant("describes-in-part", G.DESCRIBED, "omits a field from its description", DescribesInPart),
    Mutant("empty-feed", G.UNKNOWN_OBJECT, "gives an empty feed for an object that is not there", EmptyFeed),
]
