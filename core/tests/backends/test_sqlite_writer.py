from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dimesh.backends.sqlite.backend import SqliteBackend
from dimesh.backends.sqlite.options import SqliteOptions
from dimesh.clock import SystemClock
from dimesh.errors import StorageError
from dimesh.events import Event
from dimesh.spi.bus import Record, TopicConfig


async def test_a_value_that_cannot_be_stored_ends_neither_the_writer_nor_its_neighbours(
    tmp_path: Path,
) -> None:
    # The thread used to die of it, and everybody who published afterwards waited for ever.
    backend = SqliteBackend(SqliteOptions(path=str(tmp_path / "mesh.db")), SystemClock())
    await backend.open()
    good = Record.of(Event("custom"), "k")
    try:
        async with asyncio.timeout(20):
            for _ in range(3):
                results = await asyncio.gather(
                    backend.append("t", [good]),
                    backend.append("t", [good], state={"\ud800": b""}),
                    backend.create_topic("u", TopicConfig(retention_records=2**70)),
                    backend.append("t", [good], state={"fine": b"x"}),
                    return_exceptions=True,
                )
                assert [isinstance(result, StorageError) for result in results] == [False, True, True, False]
            assert len(await backend.read("t", dict.fromkeys(range(4), 0), 100)) == 6  # all or nothing
            assert await backend.load_state("fine") == b"x"
            with pytest.raises(StorageError, match="cannot be stored or looked up"):
                await backend.load_state("\ud800")
    finally:
        await backend.close()
