"""What the tests of a change source share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from dimesh.spi.cdc import CDCSource, Change, Gap
from dimesh_contracts.cdc.system import System
from dimesh_contracts.contract import NOT_OFFERED, Contract
from dimesh_contracts.waiting import deadline

NewSource = Callable[[], CDCSource]


class CDCHarness(Contract):
    """Fixtures, and helpers that read."""

    @pytest.fixture
    def system(self) -> System:
        """Return the system, empty."""
        raise NotImplementedError("give your test class a 'system' fixture")

    @pytest.fixture
    def new_source(self, system: System) -> NewSource:
        """Return a function that makes a source which is not open."""
        raise NotImplementedError("give your test class a 'new_source' fixture")

    @pytest.fixture
    async def source(self, new_source: NewSource) -> AsyncIterator[CDCSource]:
        """Open a source, and close it after the test."""
        made = new_source()
        await made.open()
        yield made
        await made.close()

    @staticmethod
    def _can(system: System, *hooks: str) -> Any:
        """Return the system if it has these methods; otherwise the test is "not offered"."""
        for hook in hooks:
            if not hasattr(system, hook):
                pytest.skip(f"{NOT_OFFERED}the system has no {hook}")
        return system

    @staticmethod
    async def read(source: CDCSource, object: str, position: bytes, count: int) -> list[tuple[Change, bytes]]:
        """Return the next ``count`` changes with the positions after their batches."""
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
        """Return all rows with the positions after their batches."""
        found: list[tuple[Change, bytes]] = []
        async with deadline():
            async for batch in source.snapshot(object, resume):
                for item in batch.items:
                    assert isinstance(item, Change)
                    found.append((item, batch.position))
        return found
