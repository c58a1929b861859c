"""Streams: every change, in order, from anywhere."""

from __future__ import annotations

import asyncio

from dimesh.capabilities import Capability
from dimesh.spi.cdc import Before, CDCSource, Change, Operation
from dimesh_contracts.cdc.guarantees import CDCGuarantee as G
from dimesh_contracts.cdc.harness import CDCHarness, NewSource
from dimesh_contracts.cdc.system import Clocked, Nested, System
from dimesh_contracts.contract import proves


class Streams(CDCHarness):
    """The changes of a stream."""

    @proves(G.COMPLETE, Capability.STREAM)
    async def test_every_change_in_order(self, source: CDCSource, system: System) -> None:
        """Inserts and updates of some keys, more than a page, arrive in order. Usually wrong: only the last state of a key
        that changed twice between two polls; that is right if the system keeps rows only, and then each key has its last state
        once.
        """
        await system.put("first", "v")
        position = await source.position(system.object)
        done: dict[str, list[tuple[Operation, str]]] = {}
        for n in range(600):
            key = f"k{n % 7}"
            await system.put(key, f"v{n}")
            operation = Operation.UPDATE if key in done else Operation.INSERT
            done.setdefault(key, []).append((operation, f"v{n}"))
        count = 600
        if getattr(system, "only_rows", False):
            done = {key: [(Operation.INSERT, changes[-1][1])] for key, changes in done.items()}
            count = len(done)
        found: dict[str, list[tuple[Operation, str]]] = {}
        for change, after in await self.read(source, system.object, position, count):
            position = after
            assert change.object == system.object
            assert change.timestamp.tzinfo is not None
            found.setdefault(system.key(change), []).append((change.operation, system.value(change.after)))
        assert found == done
        if count < 600:  # and nothing of what was before
            await system.put("k0", "last")
            ((change, _),) = await self.read(source, system.object, position, 1)
            assert (change.operation, system.value(change.after)) == (Operation.UPDATE, "last")

    @proves(G.NEW_ONLY, Capability.STREAM)
    async def test_nothing_from_before_the_position(self, source: CDCSource, system: System) -> None:
        """The last change may be a second or an hour old. Usually wrong: a source that reads a little of the past again, for what
        became visible late, takes old changes for new ones when nothing has happened for a while.
        """
        for n in range(3):
            await system.put(f"old{n}", "1")
        for hours in (0, 1):
            if hours and hasattr(system, "skew"):
                await system.skew(hours * 3_600.0)
            position = await source.position(system.object)
            await system.put(f"new{hours}", "1")
            await system.put(f"newer{hours}", "1")
            found = [system.key(c) for c, _ in await self.read(source, system.object, position, 2)]
            assert found == [f"new{hours}", f"newer{hours}"]

    @proves(G.WHOLE, Capability.STREAM)
    async def test_a_row_with_many_entries(self, source: CDCSource, system: System) -> None:
        """Usually wrong: the row of an event has the first ten entries of its list, and is published as if these were all."""
        nested: Nested = self._can(system, "put_entries", "entries")
        position = await source.position(system.object)
        for n in (25, 3, 40):
            await nested.put_entries("k", n)
        changes = [change for change, _ in await self.read(source, system.object, position, 3)]
        for n, change in zip((25, 3, 40), changes, strict=True):
            if "cut" not in change.metadata:
                # A row that was read again is that of the moment of reading.
                wanted = n if change.as_of is None else 40
                assert nested.entries(change.after) == wanted, (
                    f"{nested.entries(change.after)} of {wanted} entries"
                )

    @proves(G.CLOCK, Capability.STREAM)
    async def test_a_clock_of_ours_that_is_wrong(self, source: CDCSource, system: System) -> None:
        """Nothing has happened yet, and our clock is two hours ahead. Usually wrong: the first position is a time of our clock,
        and whatever happens before the system's clock gets there is skipped.
        """
        clocked: Clocked = self._can(system, "skew")
        await clocked.skew(-7_200.0)
        position = await source.position(system.object)
        await system.put("k", "1")
        ((change, _),) = await self.read(source, system.object, position, 1)
        assert system.key(change) == "k"

    @proves(G.DELETES, Capability.STREAM, Capability.DELETES)
    async def test_deletes_are_reported(self, source: CDCSource, system: System) -> None:
        """A row that is inserted again after its delete is an insert. Usually wrong: only existing rows are read."""
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
        """Usually wrong: the current row in place of the earlier one; changed fields that did not change."""
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

    @proves(G.RESUME, Capability.STREAM)
    async def test_a_stream_resumes_anywhere(
        self, source: CDCSource, new_source: NewSource, system: System
    ) -> None:
        """The position of each batch resumes the stream, also in another instance. Usually wrong: a position that is valid
        for the connection only, or that is before or after its batch.
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
        """The event id is derived from the identity, and repeats are recognised by it. Usually wrong: derived from the time
        of reading; from key and value, which may occur again.
        """
        await system.put("k", "a")
        position = await source.position(system.object)
        values = ("b", "a", "b", "a")
        # Of a system that keeps rows only, each state must be read before the next one.
        rounds = [(value,) for value in values] if getattr(system, "only_rows", False) else [values]
        identities: list[str] = []
        other = new_source()
        await other.open()
        for made in rounds:
            for value in made:
                await system.put("k", value)
            first = await self.read(source, system.object, position, len(made))
            again = await self.read(other, system.object, position, len(made))
            assert [c.identity for c, _ in again] == [c.identity for c, _ in first]
            identities += [c.identity for c, _ in first]
            position = first[-1][1]
        await other.close()
        assert len(set(identities)) == 4

    @proves(G.CANCELLATION, Capability.STREAM)
    async def test_a_cancelled_stream_loses_nothing(self, source: CDCSource, system: System) -> None:
        """Reading resumes from the last position that was delivered, wherever the stream was cancelled: before the request,
        while the answer was in flight, or after it arrived. Usually wrong: a position that moves when a page is fetched.
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
