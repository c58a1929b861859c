"""Helpers of the tests: a stream that is read step by step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from dimesh.spi.cdc import Change, ChangeBatch, Gap, Operation
from dimesh_contracts.waiting import deadline
from dimesh_netsuite.source import NetSuiteSource


class Tape:
    """What a stream has yielded so far."""

    def __init__(self, source: NetSuiteSource, object: str, position: bytes) -> None:
        self.position = position
        self.items: list[Change | Gap] = []
        self._stream = source.stream(object, position)

    async def poll(self) -> list[Change | Gap]:
        """Read one whole poll, up to its empty batch, and return what it had."""
        found: list[Change | Gap] = []
        async with deadline():
            while True:
                batch: ChangeBatch = await anext(self._stream)
                self.position = batch.position
                if not batch.items:
                    break
                found += batch.items
        self.items += found
        return found

    async def changes(self) -> list[Change]:
        """Return the changes of the next poll."""
        return [item for item in await self.poll() if isinstance(item, Change)]

    async def close(self) -> None:
        await self._stream.aclose()  # type: ignore[attr-defined]


@asynccontextmanager
async def following(
    source: NetSuiteSource, object: str, position: bytes | None = None
) -> AsyncIterator[Tape]:
    tape = Tape(source, object, position if position is not None else await source.position(object))
    try:
        yield tape
    finally:
        with suppress(RuntimeError, asyncio.CancelledError):
            await tape.close()


async def listed(source: NetSuiteSource, object: str) -> list[Change]:
    found: list[Change] = []
    async with deadline():
        async for batch in source.snapshot(object, None):
            found += [item for item in batch.items if isinstance(item, Change)]
    return found


def shown(changes: list[Change], field: str = "companyname") -> list[tuple[Operation, Any]]:
    return [(c.operation, c.after and c.after[field]) for c in changes]
