from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dimesh.backends.bus.sqlite.backend import SqliteBackend
from dimesh.backends.bus.sqlite.options import SqliteOptions
from dimesh.clock import SystemClock
from dimesh.errors import StorageError
from dimesh.events import Event
from dimesh.spi.bus import Record, TopicConfig


async def test_a_value_that_cannot_be_stored_ends_neither_the_writer_nor_its_neighbours(
    tmp_path: Path,
) -> None:
    # The thread used to end with the error, and later publishers waited for ever.
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


async def test_an_error_that_nobody_expected_ends_neither_the_writer_nor_its_neighbours(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = SqliteBackend(SqliteOptions(path=str(tmp_path / "mesh.db")), SystemClock())
    await backend.open()
    good = Record.of(Event("custom"), "k")
    try:
        async with asyncio.timeout(20):
            results = await asyncio.gather(
                backend.append("t", [good]),
                backend.seek_group("t", "g", "earliest"),  # type: ignore[arg-type]  # the engine refuses it
                backend.append("t", [good]),
                return_exceptions=True,
            )
            assert [isinstance(result, StorageError) for result in results] == [False, True, False]
            assert "unexpected AssertionError" in str(results[1])
            assert "unexpected error while writing" in caplog.text
            assert len(await backend.read("t", dict.fromkeys(range(4), 0), 100)) == 2
    finally:
        await backend.close()


async def test_appends_of_two_processes_and_changes_between_them_use_no_offset_twice(tmp_path: Path) -> None:
    # The writer remembers where the topics end; whatever else is written must make it look again.
    options = SqliteOptions(path=str(tmp_path / "mesh.db"), partitions=1)
    one, two = SqliteBackend(options, SystemClock()), SqliteBackend(options, SystemClock())
    await one.open()
    await two.open()
    record = Record.of(Event("custom"), "k")
    offsets: list[int] = []

    async def append(backend: SqliteBackend, topic: str = "t", count: int = 1) -> None:
        positions = await backend.append(topic, [record] * count)
        if topic == "t":
            offsets.extend(position.offset for position in positions if position is not None)

    try:
        for backend in (one, one, two, one, two, two):
            await asyncio.gather(append(backend), append(backend, "u"), append(backend, count=3))
        failed = await asyncio.gather(
            append(one), one.append("t", [record], state={"\ud800": b""}), append(one), return_exceptions=True
        )
        assert isinstance(failed[1], StorageError)
        await append(one)
        assert offsets == list(range(len(offsets)))
        await two.delete_topic("t")
        offsets.clear()
        await append(one)
        await append(two)
        await one.create_topic("t", TopicConfig(retention_records=1))
        await append(one)
        assert offsets == [0, 1, 2]
        assert [d.offset for d in await two.read("t", {0: 0}, 10)] == [0, 1, 2]
    finally:
        await one.close()
        await two.close()
