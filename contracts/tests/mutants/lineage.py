"""Lineage sinks with one fault each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

from catalogue import Mutant

from dimesh.backends.lineage.file import FileSink, FileSinkOptions
from dimesh.errors import LineageError, StorageError
from dimesh.spi.lineage import LineageRecord
from dimesh_contracts.lineage import LineageGuarantee as G


class File(FileSink):
    def __init__(self, folder: Path) -> None:
        super().__init__(FileSinkOptions(path=str(folder / "log"), segment_bytes=50_000))


class LosesTheFirstOfABatch(File):
    async def write(self, records: Sequence[LineageRecord]) -> None:
        await super().write(records[1:] if len(records) > 1_000 else records)


class CutsNames(File):
    async def write(self, records: Sequence[LineageRecord]) -> None:
        await super().write([replace(record, name=record.name.split("\n")[0]) for record in records])


class ReadsNewestFirst(File):
    async def read(self) -> AsyncIterator[Sequence[LineageRecord]]:
        batches = [batch async for batch in super().read()]
        for batch in reversed(batches):
            yield batch


class RefusesRepeats(File):
    seen: set[str]

    async def write(self, records: Sequence[LineageRecord]) -> None:
        seen = self.__dict__.setdefault("seen", set())
        for record in records:
            if record.id in seen:
                raise LineageError("a record of that id is there")
        await super().write(records)
        seen.update(record.id for record in records)


class ForgetsEverything(File):
    async def forget(self, before: float) -> int:
        return await super().forget(before + 1_000_000 if before else before)


class ForgetsAtRestart(File):
    async def open(self) -> None:
        await super().open()
        await super().forget(1e12)


class WritesWhenClosed(File):
    async def write(self, records: Sequence[LineageRecord]) -> None:
        try:
            await super().write(records)
        except (LineageError, StorageError):
            raise RuntimeError("the file is closed") from None


MUTANTS = [
    Mutant("loses-first", G.READ_BACK, "loses the first record of a large batch", LosesTheFirstOfABatch),
    Mutant("cuts-names", G.UNCHANGED, "cuts names at the end of a line", CutsNames),
    Mutant("newest-first", G.READ_BACK, "reads the newest batch first", ReadsNewestFirst),
    Mutant("refuses-repeats", G.IDEMPOTENT, "refuses a record that comes again", RefusesRepeats),
    Mutant("forgets-all", G.FORGET, "forgets what is younger, too", ForgetsEverything),
    Mutant("forgets-at-restart", G.DURABLE, "starts empty at restart", ForgetsAtRestart),
    Mutant("foreign-error", G.LIFE, "fails with an error that is not the SPI's", WritesWhenClosed),
]
