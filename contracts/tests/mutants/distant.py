"""Buses with a connection that the kit can cut: they go wrong when it breaks, or when calls are cancelled or closed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from bus import Memory, Sqlite
from catalogue import Mutant

from dimesh.backends.bus.memory.stream import MemoryStream
from dimesh.backends.bus.sqlite import groups
from dimesh.backends.bus.sqlite.stream import SqliteStream
from dimesh.backends.bus.sqlite.tables import read_topic
from dimesh.errors import StorageError
from dimesh.spi.bus import Batch, Delivery, PartitionListener, Position, Record, Start, StartAt, Subscribe
from dimesh_contracts.bus import BusGuarantee as G
from dimesh_contracts.bus import Hands


class Line(Hands):
    """The connection to a server."""

    def __init__(self) -> None:
        self.up = asyncio.Event()
        self.up.set()

    async def cut(self) -> None:
        self.up.clear()

    async def heal(self) -> None:
        self.up.set()

    def check(self) -> None:
        """Raise StorageError while the connection is cut."""
        if not self.up.is_set():
            raise StorageError("the connection is gone")


class DistantStream(MemoryStream):
    line: Line

    async def receive(self, limit: int) -> Sequence[Batch]:
        await self.line.up.wait()
        return await super().receive(limit)

    async def commit(self, positions: Mapping[int, int]) -> None:
        self.line.check()
        await super().commit(positions)


class Distant(Memory):
    """The reference behind a connection; not a mutant."""

    stream_class = DistantStream

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.line = Line()

    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        self.line.check()
        return await super().append(topic, records, **options)

    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> MemoryStream:
        stream = await super().subscribe(request, listener)
        stream.line = self.line  # type: ignore[attr-defined]
        return stream


class CarelessStream(DistantStream):
    async def commit(self, positions: Mapping[int, int]) -> None:
        try:
            await super().commit(positions)
        except StorageError:
            return


class ForgetsACommitThatFailed(Distant):
    stream_class = CarelessStream


class AcknowledgesDuringTheCut(Distant):
    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        try:
            return await super().append(topic, records, **options)
        except StorageError:
            return [Position(0, 1_000_000 + n) for n in range(len(records))]


class LeavesATask(Memory):
    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> MemoryStream:
        self.__dict__.setdefault("watching", []).append(asyncio.ensure_future(asyncio.sleep(3_600)))
        return await super().subscribe(request, listener)

    async def close(self) -> None:
        for task in self.__dict__.get("watching", ()):
            task.cancel()
        await super().close()


class LeavesAFile(Memory):
    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> MemoryStream:
        self.__dict__.setdefault("files", []).append(open("/dev/null", "rb"))  # noqa: SIM115 - that is the fault
        return await super().subscribe(request, listener)


class LimitsAllTogether(Memory):
    async def read(
        self, topic: str, start: Mapping[int, int] | StartAt | datetime, limit: int
    ) -> Sequence[Delivery]:
        return (await super().read(topic, start, limit))[:limit]


class SeeksWithoutAsking(Sqlite):
    """Counts the members of its own instance only."""

    async def seek_group(self, topic: str, group: str, start: Start) -> Mapping[int, int]:
        if any(stream.group == group and stream.topic == topic for stream in self._streams):
            return await super().seek_group(topic, group, start)

        def seek(connection: Connection) -> Mapping[int, int]:
            connection.execute("DELETE FROM members WHERE grp = ?", (group,))
            return groups.seek(connection, read_topic(connection, topic), group, start, self.options.lease)

        return await self._session.writer.submit(seek)


class OwnRecordsStream(SqliteStream):
    appended = False

    def caught_up(self) -> bool:
        return not self._session.__dict__.get("appended") or super().caught_up()


class CountsItsOwnRecords(Sqlite):
    async def append(
        self, topic: str, records: Sequence[Record], **options: Any
    ) -> Sequence[Position | None]:
        self._session.__dict__["appended"] = True
        return await super().append(topic, records, **options)

    async def subscribe(self, request: Subscribe, listener: PartitionListener) -> SqliteStream:
        stream = await super().subscribe(request, listener)
        stream.__class__ = OwnRecordsStream
        return stream


class DeafStream(MemoryStream):
    async def receive(self, limit: int) -> Sequence[Batch]:
        try:
            return await super().receive(limit)
        except asyncio.CancelledError:
            return await super().receive(limit)


class SwallowsACancellation(Memory):
    stream_class = DeafStream


MUTANTS = [
    Mutant(
        "forgets-failed-commit",
        G.CONNECTION,
        "reports a commit as done that failed with the connection",
        ForgetsACommitThatFailed,
    ),
    Mutant(
        "acknowledges-in-the-dark",
        G.CONNECTION,
        "acknowledges records that it could not send",
        AcknowledgesDuringTheCut,
    ),
    Mutant("stubborn", G.CANCELLATION, "swallows the cancellation of a receive", SwallowsACancellation),
    Mutant("leaves-tasks", G.NOTHING_LEFT, "leaves a task behind for each subscription", LeavesATask),
    Mutant("leaves-files", G.NOTHING_LEFT, "leaves a file open for each subscription", LeavesAFile),
    Mutant("limits-together", G.REPLAY, "limits a read over all partitions together", LimitsAllTogether),
    Mutant(
        "seeks-without-asking",
        G.SEEK,
        "moves a group that has members in another instance",
        SeeksWithoutAsking,
    ),
    Mutant(
        "own-records",
        G.CAUGHT_UP,
        "is caught up as long as the instance itself has published nothing",
        CountsItsOwnRecords,
    ),
]
