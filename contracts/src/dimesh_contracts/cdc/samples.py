"""What a verification of the feed relies on."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest

from dimesh import contact
from dimesh.capabilities import Capability
from dimesh.spi.cdc import CDCSource, Change, SamplesRows
from dimesh_contracts.cdc.guarantees import CDCGuarantee as G
from dimesh_contracts.cdc.harness import CDCHarness
from dimesh_contracts.cdc.system import System
from dimesh_contracts.contract import NOT_OFFERED, proves
from dimesh_contracts.waiting import deadline, until


class _Listener:
    """Notes what the stream says of itself."""

    def __init__(self) -> None:
        self.yielded = 0
        self.said: list[tuple[float, int]] = []
        """The times up to which everything was delivered, each with the number of changes that were yielded before."""

    def has(self, count: int) -> bool:
        return self.yielded >= count

    def requested(self) -> None: ...

    def reached(self) -> None: ...

    def missed(self, reason: str) -> None: ...

    def delivered(self, until: float) -> None:
        self.said.append((until, self.yielded))


class Samples(CDCHarness):
    """Rows from the middle, and how far a stream is."""

    @staticmethod
    def _samples(source: CDCSource) -> SamplesRows:
        if not isinstance(source, SamplesRows):
            pytest.skip(f"{NOT_OFFERED}the source has no rows_after")
        return source

    @proves(G.SAMPLED, Capability.SNAPSHOT)
    async def test_rows_from_the_middle(self, source: CDCSource, system: System) -> None:
        """The rows after any row are those that follow it in the list of all rows, whatever the limit; a short page is the last
        one. Usually wrong: the row itself comes again; a row that no longer exists is skipped to the next one silently.
        """
        samples = self._samples(source)
        for n in range(120):
            await system.put(f"k{n:03}", "v")
        walked: list[Change] = []
        async with deadline():
            while len(page := await samples.rows_after(system.object, _last(walked), 50) or ()) == 50:
                walked += page
        walked += page
        order = [system.key(row) for row in walked]
        assert sorted(order) == [f"k{n:03}" for n in range(120)]
        for begin in (0, 7, 50, 112, 119):
            found = await samples.rows_after(system.object, walked[begin].primary_key, 9)
            assert found is not None
            assert [system.key(row) for row in found] == order[begin + 1 : begin + 10]
            assert all(row.after is not None for row in found)
        if Capability.DELETES in source.capabilities:
            await system.delete(order[60])
            assert await samples.rows_after(system.object, walked[60].primary_key, 9) is None

    @proves(G.DELIVERED, Capability.STREAM)
    async def test_a_stream_says_how_far_it_is(self, source: CDCSource, system: System) -> None:
        """What was committed before the moment up to which a stream says that it is complete was yielded before it said so.
        Usually wrong: it says so before its last batch is taken over; it never says so.
        """
        self._samples(source)
        await system.put("first", "v")
        position = await source.position(system.object)
        listener = _Listener()
        committed: list[float] = []

        async def follow() -> None:
            contact.listener.set(listener)
            async for batch in source.stream(system.object, position):
                await asyncio.sleep(0.02)  # the publisher needs time, too
                listener.yielded += len([item for item in batch.items if isinstance(item, Change)])

        following = asyncio.create_task(follow())
        try:
            for n in range(8):
                await system.put(f"k{n}", "v")
                committed.append(time.time())
                await until(partial(listener.has, n + 1))
            await until(lambda: listener.said and listener.said[-1][0] >= committed[-1])
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        for complete, yielded in listener.said:
            due = sum(moment < complete for moment in committed)
            assert yielded >= due, f"{yielded} of {due} changes were yielded when the stream said so"


def _last(rows: list[Change]) -> dict[str, object] | None:
    return dict(rows[-1].primary_key) if rows else None
