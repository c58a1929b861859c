"""Copies of the embedded files while they are written, and the way back."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path

import pytest

from dimesh import Event
from dimesh.backends.state.sqlite import SqliteCDCStore
from dimesh.bus.door import Operation
from dimesh.errors import ConfigurationError, DimeshError, StorageError
from dimesh.mesh import Mesh
from dimesh.ops.backup import MANIFEST, Manifest, back_up, read_manifest, restore
from dimesh.settings import MeshSettings, load_settings
from dimesh.spi.bus import Record


@pytest.fixture
def settings(settings_file: Path) -> MeshSettings:
    settings_file.write_text('[mesh]\nname = "shop"\n')
    return load_settings(settings_file).settings


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


async def fill(settings: MeshSettings, events: int = 3) -> None:
    async with Mesh(settings) as mesh:
        for n in range(events):
            await mesh.bus.publish("orders", Event("order.created", None, {"n": n}))
        await mesh.registry.register_schema("orders", {"type": "object"})
        await mesh.cdc_store.save("position of shop", b"7")
        await mesh.lineage.track_event(Event("order.created", None, {"n": 1}))


async def test_everything_embedded_comes_back(settings: MeshSettings, tmp_path: Path) -> None:
    await fill(settings)
    # A mesh that is open: nothing waits for it, and it goes on.
    async with Mesh(settings) as mesh:
        made = back_up(settings, tmp_path / "copy")
        await mesh.bus.publish("orders", Event("order.created", None, {"n": 3}))
    assert made == read_manifest(tmp_path / "copy")
    assert made.parts == ["bus", "capture", "registry", "lineage"]
    assert made.mesh == "shop"
    assert not made.left_out
    for path in (tmp_path / "copy").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    (tmp_path / "mesh-data").rename(tmp_path / "old")
    (tmp_path / "dimesh-cdc.db").rename(tmp_path / "old.db")
    restore(settings, tmp_path / "copy")
    for path in (tmp_path / "mesh-data").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    async with Mesh(settings) as mesh:
        (topic,) = [t for t in await mesh.bus.door.topics() if t.name == "orders"]
        assert topic.records == 3  # and not the one that came after
        assert await mesh.registry.list_subjects() == ["orders"]
        assert await mesh.cdc_store.load("position of shop") == b"7"
        await mesh.lineage.open()
        assert "order.created" in mesh.lineage.export_graph()
    with closing(sqlite3.connect(tmp_path / "mesh-data/mesh.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_the_rows_of_capture_are_of_the_moment_of_the_bus(settings: MeshSettings, tmp_path: Path) -> None:
    """A batch is staged before it is published, so a copy has the published batch, or that and the staged one. Copies that
    were made one after the other would be further apart.
    """
    stop = threading.Event()

    async def write() -> None:
        store = SqliteCDCStore(settings.cdc.state)
        async with Mesh(settings) as mesh:
            batch = 0
            while not stop.is_set():
                batch += 1
                await store.stage("shop", batch, {"k": b"row"}, [], 1, {})
                await store.mark_seen("shop", [str(batch)], 1)
                record = Record.of(Event("order.created", None, {"batch": batch}), "k")
                await mesh.bus.door.append(
                    "orders",
                    (record,),
                    state={"batch": str(batch).encode()},
                    operation=Operation.PUBLISH,
                )
                begun.set()
        await store.close()

    begun = threading.Event()
    writer = threading.Thread(target=lambda: asyncio.run(write()))
    writer.start()
    try:
        assert begun.wait(20)
        for n in range(15):
            back_up(settings, tmp_path / f"copy-{n}")
    finally:
        stop.set()
        writer.join()
    batches = []
    for n in range(15):
        with (
            closing(sqlite3.connect(tmp_path / f"copy-{n}/bus.db")) as bus,
            closing(sqlite3.connect(tmp_path / f"copy-{n}/capture.db")) as capture,
        ):
            published = int(bus.execute("SELECT value FROM state WHERE key = 'batch'").fetchone()[0])
            (records,) = bus.execute("SELECT count(*) FROM records").fetchone()
            staged = int(
                capture.execute("SELECT value FROM state WHERE name = 'batch of shop'").fetchone()[0]
            )
            seen = {int(key) for (key,) in capture.execute("SELECT key FROM rows WHERE key != 'k'")}
        assert records == published  # the position is that of the last record
        assert published <= staged <= published + 1
        assert seen >= set(range(1, published + 1))  # no row lacks whose change is published
        batches.append(published)
    assert batches[-1] > batches[0]


async def test_a_backup_replaces_nothing_and_leaves_nothing_half_written(
    settings: MeshSettings, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="nothing to back up"):
        back_up(settings, tmp_path / "copy")
    await fill(settings)
    (tmp_path / "taken").mkdir()
    with pytest.raises(ConfigurationError, match="exists, and a backup replaces nothing: name a new folder"):
        back_up(settings, tmp_path / "taken")
    # What a backup left that was killed.
    (tmp_path / "copy.partial/lineage").mkdir(parents=True)
    (tmp_path / "copy.partial/bus.db").write_bytes(b"x" * 10_000)
    (tmp_path / "copy.partial/old.db").write_bytes(b"x")
    back_up(settings, tmp_path / "copy")
    assert not (tmp_path / "copy.partial").exists()
    assert not (tmp_path / "copy/old.db").exists()

    def fail(part: str, done: int, total: int) -> None:
        if part == "registry":
            raise OSError(28, os.strerror(28))

    with pytest.raises(StorageError, match=r"is full\. Nothing of it was kept; free space and try again"):
        back_up(settings, tmp_path / "other", fail)
    assert not list(tmp_path.glob("other*"))


async def test_two_backups_to_one_folder_do_not_mix(settings: MeshSettings, tmp_path: Path) -> None:
    await fill(settings)
    found: list[str] = []

    def meanwhile(part: str, done: int, total: int) -> None:
        if not found:
            with pytest.raises(ConfigurationError, match="is running: wait for it") as other:
                back_up(settings, tmp_path / "copy")
            found.append(str(other.value))

    back_up(settings, tmp_path / "copy", meanwhile)
    assert found
    assert read_manifest(tmp_path / "copy").parts


DAMAGE = {
    "bus": ("mesh-data/mesh.db", "UPDATE records SET payload = x'00'", "does not have its checksum"),
    "capture": ("dimesh-cdc.db", "UPDATE state SET value = x'00'", "does not have its checksum"),
    "registry": (
        "mesh-data/registry.db",
        "UPDATE totals SET rows = 9 WHERE name = 'contents'",
        "are not complete",
    ),
}


@pytest.mark.parametrize("part", DAMAGE)
async def test_damage_in_a_file_fails_the_backup_and_names_the_file(
    settings: MeshSettings, tmp_path: Path, part: str
) -> None:
    await fill(settings)
    name, statement, says = DAMAGE[part]
    with closing(sqlite3.connect(tmp_path / name)) as connection, connection:
        connection.execute(statement)
    with pytest.raises(StorageError, match=says) as failed:
        back_up(settings, tmp_path / "copy")
    assert str(tmp_path / name) in str(failed.value)
    assert not list(tmp_path.glob("copy*"))


@pytest.fixture
def copy(settings: MeshSettings, tmp_path: Path) -> Manifest:
    """A backup in ``copy`` whose mesh is gone."""
    asyncio.run(fill(settings))
    made = back_up(settings, tmp_path / "copy")
    (tmp_path / "mesh-data").rename(tmp_path / "old")
    (tmp_path / "dimesh-cdc.db").rename(tmp_path / "old.db")
    return made


def refused(settings: MeshSettings, tmp_path: Path, says: str, left: list[str]) -> None:
    with pytest.raises(DimeshError, match=says):
        restore(settings, tmp_path / "copy")
    found = [name for name in files(tmp_path) if name.startswith(("mesh-data/", "dimesh-cdc.db"))]
    assert [name for name in found if (tmp_path / name).is_file() and not name.endswith("-lock")] == left


def test_a_damaged_backup_is_not_restored(settings: MeshSettings, tmp_path: Path, copy: Manifest) -> None:
    for file in copy.files:
        path = tmp_path / "copy" / file.name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        refused(settings, tmp_path, "its checksum is not the one of the manifest", [])
        path.write_bytes(whole)
    manifest = tmp_path / "copy" / MANIFEST
    text = manifest.read_text()
    for bad in (
        "{",
        '{"version": 1}',
        text.replace('"bus.db"', '"../../etc/x"'),
        text.replace('"lineage/', '"lineage/../../'),
    ):
        manifest.write_text(bad)
        refused(settings, tmp_path, "is not a backup", [])
    manifest.write_text(text.replace('"format": 3', '"format": 99'))
    refused(settings, tmp_path, "upgrade dimesh", [])
    manifest.write_text(text)
    restore(settings, tmp_path / "copy")


@pytest.mark.parametrize(
    "there", ["dimesh-cdc.db", "mesh-data/mesh.db-wal", "mesh-data/registry.db-journal", "mesh-data/lineage/000000000001.lineage"]
)  # fmt: skip
def test_a_restore_replaces_nothing(
    settings: MeshSettings, tmp_path: Path, copy: Manifest, there: str
) -> None:
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).write_bytes(b"")
    refused(settings, tmp_path, f"{there} exists, and a restore replaces nothing", [there])


def test_a_mesh_on_a_broker_says_what_is_not_copied(settings_file: Path, tmp_path: Path) -> None:
    settings_file.write_text('[mesh]\nname = "shop"\n')
    asyncio.run(fill(load_settings(settings_file).settings))
    settings_file.write_text('[bus]\ndriver = "kafka"\n[lineage]\ndriver = "memory"\n')
    broker = load_settings(settings_file).settings
    made = back_up(broker, tmp_path / "copy")
    assert made.parts == ["capture", "registry"]
    assert made.left_out == {
        "bus": "driver 'kafka' keeps its data elsewhere: back it up there",
        "lineage": "driver 'memory' keeps nothing on disk",
    }


async def test_an_older_format_is_copied_as_it_is(settings: MeshSettings, tmp_path: Path) -> None:
    """So that a backup can be made by the new dimesh before it migrates anything."""
    with closing(sqlite3.connect(tmp_path / "dimesh-cdc.db")) as connection:
        connection.executescript("CREATE TABLE rows (source TEXT); PRAGMA user_version = 1")
    made = back_up(settings, tmp_path / "copy")
    assert [(file.part, file.format) for file in made.files] == [("capture", 1)]
    with closing(sqlite3.connect(tmp_path / "dimesh-cdc.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
