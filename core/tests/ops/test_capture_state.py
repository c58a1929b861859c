"""The state of a connector that was renamed: moved or dropped, on a bus that keeps positions and on one that does not."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from dimesh.cdc.state import progress_key
from dimesh.errors import CDCError, ConfigurationError, EventError, StorageError
from dimesh.mesh import Mesh
from dimesh.ops import capture
from dimesh.ops.capture_state import drop_state, list_state, move_state
from dimesh.settings import load_settings
from dimesh_contracts.waiting import until

KILLED = """
import asyncio, os, signal
from dimesh.backends.state.sqlite import SqliteCDCStore
from dimesh.mesh import Mesh
from dimesh.ops.capture_state import move_state
from dimesh.settings import load_settings

async def die(self, old, new):
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with Mesh(load_settings("dimesh.toml").settings) as mesh:
        SqliteCDCStore.finish_move = die
        await move_state(mesh, "shop", "store")

asyncio.run(main())
"""


def open_mesh(file: Path, name: str, bus: str = "sqlite") -> Mesh:
    """Return the mesh of the settings, with the source renamed."""
    options = 'path = "mesh.db"' if bus == "sqlite" else "history = 1_000"
    text = file.read_text().replace('name = "shop"', f'name = "{name}"')
    file.write_text(
        f'[bus]\ndriver = "{bus}"\n[bus.options]\n{options}\n{text}' if "[bus]" not in text else text
    )
    return Mesh(load_settings(file).settings)


async def capture_all(mesh: Mesh, name: str) -> None:
    await capture.start_capture(mesh, [name])
    connector = mesh.cdc.get_connector(name)
    await until(lambda: connector.get_status()["objects"]["orders"]["phase"] == "stream")


def rename(file: Path, old: str, new: str) -> None:
    file.write_text(file.read_text().replace(f'name = "{old}"', f'name = "{new}"'))


@pytest.fixture(params=["sqlite", "memory"])
async def renamed(request: pytest.FixtureRequest, settings_file: Path, shop: sqlite3.Connection) -> Path:
    """Settings whose source was captured as ``shop`` and is named ``store`` now."""
    async with open_mesh(settings_file, "shop", request.param) as mesh:
        await capture_all(mesh, "shop")
        await mesh.cdc_store.pause("shop", "other")
    rename(settings_file, "shop", "store")
    return settings_file


async def test_a_moved_connector_continues(renamed: Path, shop: sqlite3.Connection) -> None:
    with shop:
        shop.execute("DELETE FROM orders WHERE id = 1")
        shop.execute("UPDATE orders SET product = 'table' WHERE id = 2")
    async with Mesh(load_settings(renamed).settings) as mesh:
        (before,) = [one for one in await capture.capture_progress(mesh) if one.source == "store"]
        assert before.phase is None
        left = [one for one in await capture.capture_progress(mesh) if one.source == "shop"]
        assert {(one.object, one.state) for one in left} >= {("orders", "not in the settings")}
        (stored,) = await list_state(mesh)
        assert (stored.name, stored.configured, stored.running, stored.rows) == ("shop", False, False, 3)
        position = left[0].position
        await move_state(mesh, "shop", "store")
        (moved,) = await list_state(mesh)
        assert (moved.name, moved.configured, moved.rows) == ("store", True, 3)
        (after,) = await capture.capture_progress(mesh)
        assert (after.phase, after.rows, after.position) == ("stream", 3, position)
        assert await mesh.cdc_store.paused("store") == {"other"}
        with pytest.raises(CDCError, match="there is no state of shop"):
            await move_state(mesh, "shop", "store")
        events = []
        await mesh.bus.subscribe("cdc.outbox", events.append)
        await capture_all(mesh, "store")
        await until(lambda: len(events) >= 2)
        await until(lambda: mesh.source_reports()["store"].objects["orders"].changes == 2)
    # No snapshot, and the row before the change is known from the rows that were moved.
    found = {e.event_type.value: e for e in events}  # the order holds for each row
    assert set(found) == {"cdc.delete", "cdc.update"}
    assert found["cdc.update"].payload["connector_id"] == "store"
    async with Mesh(load_settings(renamed).settings) as mesh:
        (done,) = await capture.capture_progress(mesh)
        assert (done.rows, done.changes) == (3, 2)


async def test_a_dropped_connector_starts_from_nothing(renamed: Path) -> None:
    rename(renamed, "store", "shop")
    async with Mesh(load_settings(renamed).settings) as mesh:
        await drop_state(mesh, "shop")
        assert await list_state(mesh) == []
        (progress,) = await capture.capture_progress(mesh)
        assert (progress.phase, progress.rows, progress.state) == (None, 0, "not running")
        with pytest.raises(CDCError, match="there is no state of shop"):
            await drop_state(mesh, "shop")


async def test_what_is_refused(renamed: Path, shop: sqlite3.Connection) -> None:
    async with Mesh(load_settings(renamed).settings) as mesh:
        with pytest.raises(EventError):
            await move_state(mesh, "shop", "a/b")
        with pytest.raises(CDCError, match="has already"):
            await move_state(mesh, "shop", "shop")
        claim = await mesh.cdc_store.claim("store")
        assert claim is not None
        with pytest.raises(CDCError, match="store is running"):
            await move_state(mesh, "shop", "store")
        claim.release()
        await capture_all(mesh, "store")
        with pytest.raises(CDCError, match="store is running"):
            await drop_state(mesh, "store")
        await mesh.cdc.get_connector("store").stop()
        with pytest.raises(CDCError, match="store has state of its own: 'dimesh cdc state drop store'"):
            await move_state(mesh, "shop", "store")
        await drop_state(mesh, "store")
        await move_state(mesh, "shop", "store")


async def test_damage_is_not_moved(renamed: Path, tmp_path: Path) -> None:
    async with Mesh(load_settings(renamed).settings) as mesh:
        state = Path(mesh.settings.cdc.state)
        with closing(sqlite3.connect(state)) as file, file:
            file.create_function("row_crc", -1, lambda *_: 0)
            file.execute("UPDATE rows SET row = x'00' WHERE key LIKE '%2%'")
        with pytest.raises(StorageError, match="does not have its checksum"):
            await move_state(mesh, "shop", "store")
        assert [one.name for one in await list_state(mesh)] == ["shop"]


@pytest.mark.slow
@pytest.mark.parametrize("bus", ["sqlite", "memory"])
async def test_a_move_that_is_killed_is_finished(
    bus: str, settings_file: Path, shop: sqlite3.Connection, tmp_path: Path
) -> None:
    async with open_mesh(settings_file, "shop", bus) as mesh:
        await capture_all(mesh, "shop")
    rename(settings_file, "shop", "store")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DIMESH_")}
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    async with Mesh(load_settings(settings_file).settings) as mesh:
        (stored,) = await list_state(mesh)
        assert (stored.name, stored.moving_to) == ("shop", "store")
        with pytest.raises(ConfigurationError, match="finish that with 'dimesh cdc state move shop store'"):
            await capture.start_capture(mesh, ["store"])
        with pytest.raises(CDCError, match="is being moved to store"):
            await move_state(mesh, "shop", "another")
        with pytest.raises(CDCError, match="is being moved to store"):
            await drop_state(mesh, "shop")
    rename(settings_file, "store", "shop")
    async with Mesh(load_settings(settings_file).settings) as mesh:
        with pytest.raises(ConfigurationError, match="finish that"):
            await capture.start_capture(mesh, ["shop"])
    rename(settings_file, "shop", "store")
    async with Mesh(load_settings(settings_file).settings) as mesh:
        await move_state(mesh, "shop", "store")
        log = capture.progress_log(mesh)
        assert await log.load(progress_key("shop", "orders")) is None
        events = []
        await mesh.bus.subscribe("cdc.outbox", events.append)
        await capture_all(mesh, "store")
        with shop:
            shop.execute("UPDATE orders SET product = 'table' WHERE id = 2")
        await until(lambda: events)
        assert events[0].event_type.value == "cdc.update"
