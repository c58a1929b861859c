"""Files and folders of dimesh are for their owner only, whatever the umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from dimesh import Event, EventBusFactory
from dimesh.backends.lineage.file import FileSink, FileSinkOptions
from dimesh.backends.registry.sqlite import SqliteStore, SqliteStoreOptions
from dimesh.backends.state.sqlite import SqliteCDCStore
from dimesh.clock import SystemClock
from dimesh.errors import StorageError
from dimesh.spi.lineage import LineageRecord
from dimesh.spi.registry import SchemaContent
from dimesh.storage.filelock import FileLock
from dimesh.storage.private import make_folder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes are a matter of POSIX")


@pytest.fixture(params=[0o022, 0o000], ids=["umask 022", "umask 000"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    before = os.umask(request.param)
    yield tmp_path / "a" / "mesh-data"
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}


def check(folder: Path, *names: str) -> None:
    found = modes(folder)
    assert set(names) <= found.keys(), found
    wrong = {
        name: oct(mode)
        for name, mode in found.items()
        if mode != (0o700 if (folder / name).is_dir() or name == folder.name else 0o600)
    }
    assert not wrong


async def use_bus(folder: Path, *expected: str) -> None:
    async with EventBusFactory.create("sqlite", path=str(folder / "mesh.db")) as bus:
        await bus.publish("t", Event("x.y"))
        if expected:
            check(folder, *expected)


async def use_registry(folder: Path) -> None:
    store = SqliteStore(SqliteStoreOptions(path=str(folder / "registry.db")), SystemClock())
    await store.open()
    revision = (await store.snapshot("s")).revision
    await store.append("s", SchemaContent("json", "{}", "{}"), revision=revision)
    await store.close()


async def use_state(folder: Path, *expected: str) -> None:
    store = SqliteCDCStore(folder / "cdc.db")
    await store.save("k", b"v")
    claim = await store.claim("crm")
    assert claim is not None
    if expected:
        check(folder, *expected)
    claim.release()
    await store.close()


async def use_lineage(folder: Path) -> None:
    sink = FileSink(FileSinkOptions(path=str(folder / "lineage"), segment_bytes=4_096))
    await sink.open()
    for n in range(100):
        await sink.write([LineageRecord("node", f"n{n}", "agent", float(n), "name" * 50)])
    await sink.forget(50.0)
    await sink.close()


async def test_everything_that_the_embedded_backends_write(folder: Path) -> None:
    await use_bus(folder, "mesh.db", "mesh.db-wal", "mesh.db-shm", "mesh.db-lock")
    await use_registry(folder)
    await use_state(folder, "cdc.db", "cdc.db-wal", "cdc.db-shm", "cdc.db-lock")
    await use_lineage(folder)
    check(folder, "registry.db", "lineage", "lock")
    assert sum(path.suffix == ".lineage" for path in folder.rglob("*")) > 1
    assert modes(folder.parent)["a"] == 0o700


async def test_files_that_were_open_to_others_are_narrowed(folder: Path) -> None:
    await use_bus(folder)
    await use_registry(folder)
    await use_state(folder)
    await use_lineage(folder)
    for path in folder.rglob("*"):
        path.chmod(0o777 if path.is_dir() else 0o664)
    (folder / "lineage").chmod(0o700)
    await use_bus(folder)
    await use_registry(folder)
    await use_state(folder)
    await use_lineage(folder)
    check(folder)


async def test_a_file_of_another_program_and_a_folder_that_was_there_keep_their_modes(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    other = tmp_path / "other.db"
    other.write_bytes(b"something else" * 100)
    other.chmod(0o644)
    with pytest.raises(StorageError):
        await use_bus_file(other)
    store = SqliteCDCStore(tmp_path / "cdc.db")
    await store.save("k", b"v")
    await store.close()
    assert stat.S_IMODE(other.stat().st_mode) == 0o644
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


async def use_bus_file(path: Path) -> None:
    async with EventBusFactory.create("sqlite", path=str(path)):
        pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot create the folder"):
        make_folder(tmp_path / "file" / "folder")
    with pytest.raises(StorageError, match="cannot create the folder"):
        make_folder(tmp_path / "file")
    make_folder(tmp_path)


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.try_acquire()
    assert not second.try_acquire()
    first.release()
    first.release()
    assert second.try_acquire()
    assert not first.try_acquire()
    second.release()
    with first:
        assert not second.try_acquire()
    assert second.try_acquire()  # the first keeps its file open, and not its lock
    second.release()
    first.release()
    with pytest.raises(StorageError, match="cannot open the lock file"):
        FileLock(tmp_path / "no" / "folder").try_acquire()
