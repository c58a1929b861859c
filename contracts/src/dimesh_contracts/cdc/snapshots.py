"""Snapshots, and their hand-over to the stream."""

from __future__ import annotations

from dimesh.capabilities import Capability
from dimesh.spi.cdc import CDCSource, Change, Operation
from dimesh_contracts.cdc.guarantees import CDCGuarantee as G
from dimesh_contracts.cdc.harness import CDCHarness
from dimesh_contracts.cdc.system import System
from dimesh_contracts.contract import proves
from dimesh_contracts.waiting import deadline


class Snapshots(CDCHarness):
    """A snapshot has all rows, whatever happens meanwhile."""

    @proves(G.SNAPSHOT, Capability.SNAPSHOT)
    async def test_a_snapshot_has_every_row(self, source: CDCSource, system: System) -> None:
        """More rows than a page are read once each, as SNAPSHOT. Usually wrong: the last page; ``>=`` instead of ``>``."""
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
        """The position of each batch gives exactly the rows after it. Usually wrong: a page number as position."""
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
        """Rows are deleted and inserted between pages; the snapshot has all rows that exist throughout. Usually wrong: pages
        by number, or by the count of rows read: rows after a deleted row move up, and one is left out.
        """
        rows = {f"k{n:04}" for n in range(900)}
        for key in sorted(rows):
            await system.put(key, "v")
        seen: set[str] = set()
        gone: set[str] = set()
        async with deadline(2):
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
        """Rows are written while the snapshot is read; snapshot and stream together give the current table. Usually wrong:
        the position is read after the snapshot, or at its first page.
        """
        expected = {f"k{n:04}": "old" for n in range(700)}
        for key, value in expected.items():
            await system.put(key, value)
        position = await source.position(system.object)
        written = 0
        state: dict[str, str] = {}
        async with deadline(2):
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
