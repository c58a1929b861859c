"""A source that yields what a test adds to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from dimesh.capabilities import Capabilities, Capability
from dimesh.errors import SourcePositionLostError
from dimesh.spi.cdc import Change, ChangeBatch, CheckResult, Gap, Operation

START = datetime(2030, 1, 1, tzinfo=UTC)
"""A time after every test run, so that a change is later than the snapshot unless a test sets another time."""


class ScriptedSource:
    """Rows for the snapshot, and a log of batches for the stream; a position is an index of the log."""

    system = "crm"
    read_lag = 0.0

    def __init__(self, rows: Sequence[Change] = (), **levels: Any) -> None:
        self.capabilities = Capabilities(Capability.SNAPSHOT, Capability.STREAM, **levels)
        self.rows = list(rows)
        self.log: list[list[Change | Gap]] = []
        self.oldest = 0
        self.page = 2
        self.total: int | None = None
        self.between_pages = asyncio.Event()
        self.between_pages.set()
        self.acknowledged: list[bytes] = []
        self._more = asyncio.Condition()

    async def say(self, *items: Change | Gap) -> None:
        """Add a batch to the stream."""
        async with self._more:
            self.log.append(list(items))
            self._more.notify_all()

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def check(self) -> CheckResult:
        return CheckResult(True, {"contact": ""})

    async def position(self, object: str) -> bytes:
        return str(len(self.log)).encode()

    async def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        at = int(resume or b"0")
        await self.between_pages.wait()
        while at < len(self.rows):
            await self.between_pages.wait()
            page = self.rows[at : at + self.page]
            at += len(page)
            yield ChangeBatch(page, str(at).encode(), self.total)

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        at = int(position)
        while True:
            if at < self.oldest:
                raise SourcePositionLostError(f"nothing before {self.oldest} is kept")
            async with self._more:
                while at >= len(self.log):
                    await self._more.wait()
            at += 1
            yield ChangeBatch(self.log[at - 1], str(at).encode())

    async def read_rows(self, object: str, keys: Sequence[Mapping[str, Any]]) -> Sequence[Change | None]:
        rows = {json.dumps(row.primary_key): row for row in self.rows}
        return [rows.get(json.dumps(key)) or change("gone", Operation.DELETE, key["id"]) for key in keys]

    async def acknowledge(self, object: str, position: bytes) -> None:
        self.acknowledged.append(position)


def change(
    identity: str,
    operation: Operation = Operation.UPDATE,
    key: Any = 1,
    after: Mapping[str, Any] | None = None,
    **more: Any,
) -> Change:
    """Return a change with few fields."""
    return Change(
        identity=identity,
        operation=operation,
        object="contact",
        primary_key={"id": key},
        before=more.pop("before", None),
        after=after,
        timestamp=more.pop("timestamp", START),
        **more,
    )


def row(key: Any, timestamp: datetime | None = None, **values: Any) -> Change:
    """Return a row of the snapshot."""
    return change(
        f"row-{key}-{values}",
        Operation.SNAPSHOT,
        key,
        {"id": key, **values},
        timestamp=timestamp or datetime(2020, 1, 1, tzinfo=UTC),
    )
