"""Buses that lose something when their process is killed, although they survive every clean close."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bus import Sqlite
from catalogue import Mutant

from dimesh.backends.bus.sqlite.stream import SqliteStream
from dimesh.capabilities import Capabilities, Capability
from dimesh.errors import FencedError
from dimesh.spi.bus import PartitionListener, Position, Record, Subscribe
from dimesh_contracts.bus import BusGuarantee as G


class WritesAtClose(Sqlite):
    """Works on a copy of the storage, and stores the copy when it is closed."""

    instances = 0

    def __init__(self, folder: Path) -> None:
        type(self).instances += 1
        self._stored, self._copy = folder / "stored", folder / f"copy-{self.instances}"
        super().__init__(self._copy)
        self.capabilities = Capabilities(*(c for c in self.capabilities if c is not Capability.MULTI_PROCESS))

    async def open(self) -> None:
        if self._stored.exists():
            shutil.copytree(self._stored, self._copy, dirs_exist_ok=True)
        await super().open()

    async def close(self) -> None:
        if not self.is_closed:
            await super().close()
            shutil.copytree(self._copy, self._stored, dirs_exist_ok=True)


class CommitsAtClose(Sqlite):
    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> SqliteStream:
        stream = await super().subscribe(request, listener)
        commit, close = stream.commit, stream.close
        waiting: dict[int, int] = {}

        async def commit_later(positions: Mapping[int, int]) -> None:
            waiting.update(positions)

        async def commit_and_close() -> None:
            if waiting:
                await commit(waiting)
                waiting.clear()
            await close()

        stream.commit = commit_later  # type: ignore[method-assign]
        stream.close = commit_and_close  # type: ignore[method-assign]
        return stream


class HoldsBackInMemory(Sqlite):
    """Appends what waits for its time when it is closed."""

    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        held = [record for record in records if record.deliver_at is not None]
        self.__dict__.setdefault("held", []).extend((topic, record) for record in held)
        rest = [record for record in records if record.deliver_at is None]
        positions = iter(await super().append(topic, rest, **options) if rest else ())
        return [None if record.deliver_at is not None else next(positions) for record in records]

    async def close(self) -> None:
        if not self.is_closed:
            for topic, record in self.__dict__.pop("held", []):
                await super().append(topic, [record])
        await super().close()


class CommitsForTheEvicted(Sqlite):
    """Commits what a member asks for, whoever owns the partition."""

    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> SqliteStream:
        stream = await super().subscribe(request, listener)
        commit = stream.commit

        async def commit_anyway(positions: Mapping[int, int]) -> None:
            try:
                await commit(positions)
            except FencedError:
                await self.execute(
                    "UPDATE offsets SET offset = max(offset, ?) WHERE grp = ? AND part = ?",
                    *((at, request.group, part) for part, at in positions.items()),
                )

        stream.commit = commit_anyway  # type: ignore[method-assign]
        return stream


MUTANTS = [
    Mutant("writes-at-close", G.CRASH, "writes everything to the storage when it is closed", WritesAtClose),
    Mutant("commits-at-close", G.CRASH, "writes positions when a subscription is closed", CommitsAtClose),
    Mutant("holds-back-in-memory", G.CRASH, "writes delayed records when it is closed", HoldsBackInMemory),
    Mutant(
        "commits-for-the-evicted",
        G.FENCED,
        "lets a member commit for a partition that it has lost",
        CommitsForTheEvicted,
    ),
]
