"""What every change source must satisfy. A third party brings the source, and hands to change its system with::

class TestMine(CDCSourceContract):
offers = {Capability.SNAPSHOT, Capability.STREAM, Capability.DELETES}

@pytest.fixture
def system(self, tmp_path):
return MySystem(tmp_path)  # see System

@pytest.fixture
def new_source(self, system):
return lambda: MySource(system.url)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from dimesh import Event, EventBusFactory
from dimesh.capabilities import Capability
from dimesh.cdc import SourceConnector, SqliteCDCStore
from dimesh.errors import CredentialsError, SourceObjectError, SourcePositionLostError
from dimesh.spi.cdc import Before, CDCSource, Change, Describes, Gap, Operation
from dimesh_contracts.contract import NOT_OFFERED, Contract, Guarantee, proves
from dimesh_contracts.waiting import deadline, until

NewSource = Callable[[], CDCSource]


class System(Protocol):
    """The system that is captured: a table of keys and values, as its application changes it."""

    object: str
    """What the source calls it."""

    async def put(self, key: str, value: str) -> None:
        """Insert the row or update it; committed when it returns."""
        ...

    async def delete(self, key: str) -> None:
        """Delete the row; committed when it returns."""
        ...

    def key(self, change: Change) -> str:
        """The key of a changed row."""
        ...

    def value(self, row: Any) -> str:
        """The value in a ``before`` or ``after``."""
        ...


class Forgets(System, Protocol):
    """A system whose history can be cut off. Have this method if yours keeps changes for a limited time."""

    async def lose_history(self) -> None:
        """Forget all changes so far, as if they had aged out; the rows stay."""
        ...


class Expires(System, Protocol):
    """A system whose credentials can end. Have these methods if yours asks for any."""

    async def expire_credentials(self) -> None:
        """Refuse the credentials of the sources from now on."""
        ...

    async def renew_credentials(self) -> None:
        """Take them again."""
        ...


class Refuses(System, Protocol):
    """A system that refuses requests for their rate. Have these methods if yours does."""

    async def refuse_requests(self, seconds: float) -> None:
        """Refuse every request from now on for so long, and say how long to wait."""
        ...

    def refused(self) -> int:
        """How many requests were refused."""
        ...


class CDCGuarantee(Guarantee):
    """Promises of a change source."""

    STATED = "A source states exactly the capabilities that it has, and says what it can capture."
    UNKNOWN_OBJECT = (
        "An object that is not there, or not allowed, is an error that names it, and never an empty feed."
    )
    SNAPSHOT = "A snapshot has every row that exists throughout, also when it is resumed in the middle."
    HAND_OVER = (
        "A stream from a position taken before the snapshot misses nothing that the snapshot did not see."
    )
    COMPLETE = "A stream delivers every change, in order for each key, with its operation and the row."
    RESUME = "From any position that it gave out, a stream goes on without a hole."
    IDENTITY = "A change has the same identity whenever it is read, and no other change has it."
    BEFORE = "An update or delete carries the row as it was, and says where that comes from."
    DELETES = "Deleted rows are reported."
    DESCRIBED = "The description of an object has every field that its rows have."
    POSITION_LOST = (
        "A position that the source does not know is an error, never a silent start somewhere else."
    )
    GAPS = "Changes that the system has forgotten are an error or a gap, and never left out in silence."
    REPAIR = "After changes were lost, reading anew shows the rows as they are: what was deleted meanwhile is found."
    CREDENTIALS = (
        "Credentials that end while it streams are an error of their own, and nothing is lost by it."
    )
    BUDGET = (
        "A system that says that it is too much is left alone for as long as it says, and nothing is lost."
    )
    CANCELLATION = "A stream that is cancelled or closed while it waits loses nothing."


G = CDCGuarantee


class CDCSourceContract(Contract):
    """Tests that any source passes."""

    @pytest.fixture
    def system(self) -> System:
        """The system, empty."""
        raise NotImplementedError("give your test class a 'system' fixture")

    @pytest.fixture
    def new_source(self, system: System) -> NewSource:
        """Makes a source for it, not opened."""
        raise NotImplementedError("give your test class a 'new_source' fixture")

    @pytest.fixture
    async def source(self, new_source: NewSource) -> AsyncIterator[CDCSource]:
        """An open one."""
        made = new_source()
        await made.open()
        yield made
        await made.close()

    @staticmethod
    def _can(system: System, *hooks: str) -> Any:
        """The system, if it has these methods; the test is "not offered" otherwise."""
        for hook in hooks:
            if not hasattr(system, hook):
                pytest.skip(f"{NOT_OFFERED}the system has no {hook}")
        return system

    @staticmethod
    async def read(source: CDCSource, object: str, position: bytes, count: int) -> list[tuple[Change, bytes]]:
        """The next ``count`` changes with the positions after their batches."""
        found: list[tuple[Change, bytes]] = []
        stream = source.stream(object, position)
        try:
            async with deadline():
                while len(found) < count:
                    batch = await anext(stream)
                    for item in batch.items:
                        assert not isinstance(item, Gap), f"an unexpected gap: {item.cause}"
                        found.append((item, batch.position))
        finally:
            await stream.aclose()  # type: ignore[attr-defined]
        return found

    @staticmethod
    async def snapshot(
        source: CDCSource, object: str, resume: bytes | None = None
    ) -> list[tuple[Change, bytes]]:
        """All rows with the positions after their batches."""
        found: list[tuple[Change, bytes]] = []
        async with deadline():
            async for batch in source.snapshot(object, resume):
                for item in batch.items:
                    assert isinstance(item, Change)
                    found.append((item, batch.position))
        return found

    @proves(G.STATED)
    async def test_states_what_it_offers(self, source: CDCSource, system: System) -> None:
        """Capabilities, system, and the object among those that ``check`` lists. Usually wrong: a check that only
        connects.
        """
        self.check_offers(source.capabilities)
        assert source.system
        await system.put("k", "v")
        result = await source.check()
        assert result.ok, result.problems
        assert result.objects.get(system.object) == ""

    @proves(G.STATED)
    async def test_closing_twice(self, new_source: NewSource) -> None:
        """Usually wrong: an error from a client that is closed already."""
        source = new_source()
        await source.open()
        await source.close()
        await source.close()

    @proves(G.UNKNOWN_OBJECT)
    async def test_an_unknown_object(self, source: CDCSource) -> None:
        """Usually wrong: a feed that waits for ever for something that cannot come."""
        with pytest.raises(SourceObjectError, match="nobody_has_this"):
            await source.position("nobody_has_this")
        if Capability.SNAPSHOT in source.capabilities:
            with pytest.raises(SourceObjectError, match="nobody_has_this"):
                await self.snapshot(source, "nobody_has_this")

    @proves(G.SNAPSHOT, Capability.SNAPSHOT)
    async def test_a_snapshot_has_every_row(self, source: CDCSource, system: System) -> None:
        """More rows than any page, once each, as SNAPSHOT. Usually wrong: the last page; ``>=`` for ``>``."""
        rows = {f"k{n:05}": f"v{n}" for n in range(1_203)}
        for key, value in rows.items():
            await system.put(key, value)
        found = [change for change, _ in await self.snapshot(source, system.object)]
        assert {system.key(c): system.value(c.after) for c in found} == rows
        assert len(found) == len(rows)
        assert {c.operation for c in found} == {Operation.SNAPSHOT}
        assert {c.object for c in found} == {system.object}
        assert all(c.timestamp.tzinfo is not None for c in found)
        assert len({c.identity for c in found}) == len(rows)

    @proves(G.SNAPSHOT, Capability.SNAPSHOT)
    async def test_a_snapshot_resumes_anywhere(self, source: CDCSource, system: System) -> None:
        """From the position of each batch come exactly the rows after it. Usually wrong: a page number as position."""
        for n in range(1_203):
            await system.put(f"k{n:05}", "v")
        whole = await self.snapshot(source, system.object)
        keys = [system.key(change) for change, _ in whole]
        for position in dict.fromkeys(position for _, position in whole):
            last = max(n for n, (_, after) in enumerate(whole) if after == position)
            rest = [system.key(change) for change, _ in await self.snapshot(source, system.object, position)]
            assert rest == keys[last + 1 :]

    @proves(G.SNAPSHOT, Capability.SNAPSHOT)
    async def test_an_empty_snapshot_ends(self, source: CDCSource, system: System) -> None:
        """Usually wrong: it waits for the first row."""
        await system.put("k", "v")
        await system.delete("k")
        assert await self.snapshot(source, system.object) == []

    @proves(G.SNAPSHOT, Capability.SNAPSHOT, Capability.DELETES)
    async def test_a_snapshot_while_rows_come_and_go(self, source: CDCSource, system: System) -> None:
        """Rows are deleted and made between its pages; those that are there throughout are all in it. Usually wrong: pages by
        number, or by how many rows were read: those behind a deleted row move up, and one is left out.
        """
        rows = {f"k{n:04}" for n in range(900)}
        for key in sorted(rows):
            await system.put(key, "v")
        seen: set[str] = set()
        gone: set[str] = set()
        async with deadline():
            async for batch in source.snapshot(system.object, None):
                seen |= {system.key(c) for c in batch.items if isinstance(c, Change)}
                for some, count in ((rows & seen, 7), (rows - seen, 1)):
                    for key in sorted(some - gone)[:count]:
                        await system.delete(key)
                        gone.add(key)
                await system.put(f"new{len(gone):04}", "v")
        missing = rows - gone - seen
        assert not missing, f"rows that are there throughout are not in the snapshot: {sorted(missing)[:5]}"

    @proves(G.HAND_OVER, Capability.SNAPSHOT, Capability.STREAM)
    async def test_nothing_is_lost_between_snapshot_and_stream(
        self, source: CDCSource, system: System
    ) -> None:
        """Rows are written while the snapshot is read; snapshot and stream together give the table as it is. Usually wrong:
        the position is taken after the snapshot, or at its first page.
        """
        expected = {f"k{n:04}": "old" for n in range(700)}
        for key, value in expected.items():
            await system.put(key, value)
        position = await source.position(system.object)
        written = 0
        state: dict[str, str] = {}
        async with deadline():
            async for batch in source.snapshot(system.object, None):
                for item in batch.items:
                    assert isinstance(item, Change)
                    state[system.key(item)] = system.value(item.after)
                for key in (f"k{n:04}" for n in range(written, 700, 97)):
                    await system.put(key, f"new{written}")
                    expected[key] = f"new{written}"
                    written += 1
                await system.put(f"z{written:04}", "later")
                expected[f"z{written:04}"] = "later"
                written += 1
        for change, _ in await self.read(source, system.object, position, written):
            state[system.key(change)] = system.value(change.after)
        assert state == expected

    @proves(G.COMPLETE, Capability.STREAM)
    async def test_every_change_in_order(self, source: CDCSource, system: System) -> None:
        """Inserts and updates of some keys, more than a page. Usually wrong: only the last state of a key that changed
        twice between two polls.
        """
        await system.put("first", "v")
        position = await source.position(system.object)
        done: dict[str, list[tuple[Operation, str]]] = {}
        for n in range(600):
            key = f"k{n % 7}"
            await system.put(key, f"v{n}")
            operation = Operation.UPDATE if key in done else Operation.INSERT
            done.setdefault(key, []).append((operation, f"v{n}"))
        found: dict[str, list[tuple[Operation, str]]] = {}
        for change, _ in await self.read(source, system.object, position, 600):
            assert change.object == system.object
            assert change.timestamp.tzinfo is not None
            found.setdefault(system.key(change), []).append((change.operation, system.value(change.after)))
        assert found == done

    @proves(G.DELETES, Capability.STREAM, Capability.DELETES)
    async def test_deletes_are_reported(self, source: CDCSource, system: System) -> None:
        """And a row that comes back is an insert. Usually wrong: only what still exists is looked at."""
        await system.put("k", "1")
        position = await source.position(system.object)
        await system.delete("k")
        await system.put("k", "2")
        changes = [c for c, _ in await self.read(source, system.object, position, 2)]
        assert [(c.operation, system.key(c)) for c in changes] == [
            (Operation.DELETE, "k"),
            (Operation.INSERT, "k"),
        ]
        assert changes[0].after is None

    @proves(G.BEFORE, Capability.STREAM, Capability.BEFORE_IMAGE)
    async def test_the_row_as_it_was(self, source: CDCSource, system: System) -> None:
        """Usually wrong: the row as it is now in place of the row as it was; changed fields that did not change."""
        await system.put("k", "1")
        position = await source.position(system.object)
        await system.put("k", "2")
        if Capability.DELETES in source.capabilities:
            await system.delete("k")
        changes = [
            c
            for c, _ in await self.read(
                source, system.object, position, 2 if Capability.DELETES in source.capabilities else 1
            )
        ]
        assert system.value(changes[0].before) == "1"
        assert system.value(changes[0].after) == "2"
        assert changes[0].before_from is not Before.NONE
        assert changes[0].before is not None
        assert changes[0].after is not None
        assert set(changes[0].changed_fields) == {
            name for name, value in changes[0].after.items() if changes[0].before.get(name) != value
        }
        for change in changes[1:]:
            assert system.value(change.before) == "2"

    @proves(G.DESCRIBED, Capability.DESCRIBED, Capability.SNAPSHOT)
    async def test_a_description_has_every_field(self, source: CDCSource, system: System) -> None:
        """Usually wrong: fields that no row has a value for, or the key, are left out; a schema for an object that is not
        there.
        """
        assert isinstance(source, Describes)
        await system.put("k", "v")
        schema = await source.schema(system.object)
        assert schema is not None, "there is no description of an object that can be captured"
        for change, _ in await self.snapshot(source, system.object):
            assert change.after is not None
            lacking = (change.after.keys() | change.primary_key.keys()) - schema["properties"].keys()
            assert not lacking, f"the description lacks {sorted(lacking)}"
        with pytest.raises(SourceObjectError, match="nobody_has_this"):
            await source.schema("nobody_has_this")

    @proves(G.RESUME, Capability.STREAM)
    async def test_a_stream_resumes_anywhere(
        self, source: CDCSource, new_source: NewSource, system: System
    ) -> None:
        """From the position of each batch, also by another instance. Usually wrong: a position that is good for the
        connection only; one that stands before or behind its batch.
        """
        await system.put("first", "v")
        start = await source.position(system.object)
        position = start
        read: list[str] = []
        for n in range(12):
            for m in range(n % 3 + 1):
                await system.put(f"k{n}-{m}", "v")
            other = new_source()
            await other.open()
            for change, after in await self.read(other, system.object, position, n % 3 + 1):
                read.append(system.key(change))
                position = after
            await other.close()
        assert read == [f"k{n}-{m}" for n in range(12) for m in range(n % 3 + 1)]
        again = [system.key(c) for c, _ in await self.read(source, system.object, start, len(read))]
        assert again == read

    @proves(G.IDENTITY, Capability.STREAM)
    async def test_identities_are_stable_and_unique(
        self, source: CDCSource, new_source: NewSource, system: System
    ) -> None:
        """The event id is made of it, and repeats are recognised by it. Usually wrong: made of the time of reading; of key
        and value, which may come again.
        """
        await system.put("k", "a")
        position = await source.position(system.object)
        for value in ("b", "a", "b", "a"):
            await system.put("k", value)
        first = [c.identity for c, _ in await self.read(source, system.object, position, 4)]
        other = new_source()
        await other.open()
        assert [c.identity for c, _ in await self.read(other, system.object, position, 4)] == first
        await other.close()
        assert len(set(first)) == 4

    @proves(G.POSITION_LOST, Capability.STREAM)
    async def test_a_position_from_elsewhere(self, source: CDCSource, system: System) -> None:
        """Usually wrong: it begins at the earliest or the latest, and says nothing."""
        await system.put("k", "v")
        stream = source.stream(system.object, b"\xff no position of ours")
        with pytest.raises(SourcePositionLostError):
            async with deadline():
                await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]

    @proves(G.GAPS, Capability.STREAM)
    async def test_forgotten_changes_are_said(self, source: CDCSource, system: System) -> None:
        """Usually wrong: the oldest change that is still there is taken for the next one."""
        forgets: Forgets = self._can(system, "lose_history")
        await system.put("a", "1")
        position = await source.position(system.object)
        await system.put("b", "1")
        ((_, position),) = await self.read(source, system.object, position, 1)
        await system.put("c", "1")
        await forgets.lose_history()
        stream = source.stream(system.object, position)
        try:
            async with deadline():
                batch = await anext(stream)
            assert batch.items, "a batch without items, where changes are missing"
            assert isinstance(batch.items[0], Gap), f"no gap, but {batch.items[0]}"
        except SourcePositionLostError:
            pass
        finally:
            await stream.aclose()  # type: ignore[attr-defined]
        position = await source.position(system.object)
        await system.put("d", "1")
        ((change, _),) = await self.read(source, system.object, position, 1)
        assert system.key(change) == "d"

    @proves(G.REPAIR, Capability.STREAM, Capability.SNAPSHOT)
    async def test_what_was_lost_is_repaired(
        self, new_source: NewSource, system: System, tmp_path: Path
    ) -> None:
        """A connector captures, stops, and the system changes and forgets: when it goes on, there is a gap, and after its repair
        the changes that were published give the rows as they are. Usually wrong: rows that were remembered, and are read
        no more; a snapshot that begins where the last one ended.
        """
        forgets: Forgets = self._can(system, "lose_history")
        rows = {f"k{n:03}": "old" for n in range(120)}
        for key in rows:
            await system.put(key, "old")
        by_id: dict[str, tuple[str, str]] = {}
        kinds: list[str] = []
        source = new_source()

        def shown() -> dict[str, str]:
            return dict(by_id.values())

        async def apply(event: Event) -> None:
            payload = event.payload
            kinds.append(event.event_type.value)
            if "operation" in payload:
                id, after = str(payload["primary_key"]), payload["after"]
                if after is None:
                    by_id.pop(id, None)
                else:
                    when = event.metadata.timestamp
                    change = Change(id, Operation.UPDATE, "", payload["primary_key"], None, after, when)
                    by_id[id] = (system.key(change), system.value(after))

        store = SqliteCDCStore(tmp_path / "captured.db")
        async with EventBusFactory.create("memory") as bus:
            connector = SourceConnector("captured", source, bus, store=store)
            await bus.subscribe(f"cdc.{source.system}", apply, "applied")
            await connector.start([system.object])
            await until(lambda: shown() == rows)
            await until(lambda: connector.get_status()["objects"][system.object]["phase"] == "stream")
            await connector.stop()
            for n in range(0, 120, 10):
                await system.delete(f"k{n:03}")
                del rows[f"k{n:03}"]
                await system.put(f"k{n + 1:03}", "new")
                rows[f"k{n + 1:03}"] = "new"
            await forgets.lose_history()
            await connector.start([system.object])
            await until(lambda: "cdc.repaired" in kinds)
            await until(lambda: shown() == rows)
            assert "cdc.gap" in kinds[: kinds.index("cdc.repaired")]
            await connector.disconnect()
        await store.close()

    @proves(G.CREDENTIALS, Capability.STREAM)
    async def test_credentials_that_end_while_it_streams(
        self, source: CDCSource, new_source: NewSource, system: System
    ) -> None:
        """Usually wrong: an error that looks as if the system did not answer, and is tried again until the account is
        locked; a stream that waits for ever.
        """
        expires: Expires = self._can(system, "expire_credentials", "renew_credentials")
        await system.put("first", "v")
        position = await source.position(system.object)
        await system.put("a", "1")
        stream = source.stream(system.object, position)
        try:
            async with deadline():
                batch = await anext(stream)
                while not batch.items:
                    batch = await anext(stream)
                position = batch.position
                await expires.expire_credentials()
                await system.put("b", "1")
                # A source that can renew them by itself may go on instead.
                batch = await anext(stream)
                while not batch.items:
                    batch = await anext(stream)
        except CredentialsError:
            pass
        finally:
            await stream.aclose()  # type: ignore[attr-defined]
        await expires.renew_credentials()
        other = new_source()
        await other.open()
        ((change, _),) = await self.read(other, system.object, position, 1)
        assert system.key(change) == "b"
        await other.close()

    @proves(G.BUDGET, Capability.STREAM)
    async def test_a_system_that_says_it_is_too_much(self, source: CDCSource, system: System) -> None:
        """Usually wrong: the request is made again at once, and again."""
        refuses: Refuses = self._can(system, "refuse_requests", "refused")
        await system.put("first", "v")
        position = await source.position(system.object)
        await refuses.refuse_requests(0.5)
        await system.put("a", "1")
        ((change, _),) = await self.read(source, system.object, position, 1)
        assert system.key(change) == "a"
        assert refuses.refused() <= 3, f"{refuses.refused()} requests while it was told to wait"

    @proves(G.CANCELLATION, Capability.STREAM)
    async def test_a_cancelled_stream_loses_nothing(self, source: CDCSource, system: System) -> None:
        """It is gone on with from the last position that came out, wherever it was cancelled: before it asked, while the
        answer was on its way, when it was there. Usually wrong: a position that moves when a page is fetched.
        """
        await system.put("first", "v")
        position = await source.position(system.object)
        read: list[str] = []
        for n in range(40):
            stream = source.stream(system.object, position)
            waiting = asyncio.ensure_future(anext(stream))
            put = asyncio.create_task(system.put(f"k{n}", "v"))
            if n % 4:
                await asyncio.sleep(n * 0.0002)  # the moment is what is tried: from at once to 8 ms
            waiting.cancel()
            await asyncio.wait({waiting})
            await put
            if not waiting.cancelled() and waiting.exception() is None:
                batch = waiting.result()
                read += [system.key(c) for c in batch.items if isinstance(c, Change)]
                position = batch.position
            await stream.aclose()  # type: ignore[attr-defined]
        if len(read) < 40:
            read += [
                system.key(c) for c, _ in await self.read(source, system.object, position, 40 - len(read))
            ]
        assert read == [f"k{n}" for n in range(40)]
