"""One bad source, or one bad object, stops nothing else."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dimesh import EventBusFactory
from dimesh.backends.outbox import watch
from dimesh.cdc import SourceConnector
from dimesh.cdc import connector as connector_module
from dimesh.errors import ConfigurationError, CredentialsError, SourceUnavailableError
from dimesh.mesh import Mesh
from dimesh.settings import load_settings

from .conftest import eventually, published, streaming
from .scripted import ScriptedSource, row


def application(path: Path) -> None:
    """A database with an outbox, and one row."""
    with closing(sqlite3.connect(path)) as app, app:
        app.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT)")
        watch(app, "orders")
        app.execute("INSERT INTO orders VALUES (1, 'tea')")


async def test_a_mesh_starts_although_a_source_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And captures it when it is there."""
    monkeypatch.chdir(tmp_path)
    application(tmp_path / "good.db")
    sources = [
        {
            "driver": "outbox",
            "name": name,
            "objects": ["orders"],
            "options": {"path": f"{name}.db", "poll": 0.02},
        }
        for name in ("down", "good")
    ]
    bus = {"driver": "sqlite", "options": {"path": "mesh.db"}}
    async with Mesh(load_settings(bus=bus, sources=sources).settings) as mesh:
        started = await mesh.start()
        assert len(started) == 2
        (event,) = await published(mesh.bus, 1, "cdc.outbox")
        assert event.payload["after"]["item"] == "tea"
        status = mesh.cdc.get_status()
        assert status["down"]["status"] == "error"
        assert "has the application made it yet" in status["down"]["last_error"]
        assert status["good"]["status"] in ("connected", "syncing")
        application(tmp_path / "made.db")
        (tmp_path / "made.db").rename(tmp_path / "down.db")  # whole, from its first moment
        await published(mesh.bus, 2, "cdc.outbox")
        await eventually(lambda: mesh.cdc.get_status()["down"]["status"] == "connected")


class Failing(ScriptedSource):
    """Cannot be opened at first."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__([row(1, name="Ada")])
        self.errors = list(errors)

    async def open(self) -> None:
        if self.errors:
            raise self.errors.pop(0)


async def test_what_keeps_a_source_from_connecting_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector_module, "CREDENTIALS_WAIT", 0.01)
    source = Failing(SourceUnavailableError("away"), CredentialsError("no"), RuntimeError("a bug"))
    async with EventBusFactory.create("memory", history=100) as bus:
        connector = SourceConnector("crm", source, bus)
        await connector.start(["contact"], keep_trying=True)
        assert connector.get_status()["status"] == "error"
        await streaming(connector)
        assert source.errors == []
        assert connector.get_status()["status"] == "connected"
        await connector.disconnect()


async def test_without_being_told_to_it_is_not_tried_again() -> None:
    async with EventBusFactory.create("memory") as bus:
        for error in (SourceUnavailableError("away"), RuntimeError("a bug")):
            with pytest.raises(type(error)):
                await SourceConnector("crm", Failing(error), bus).start(["contact"])
        with pytest.raises(ConfigurationError):
            await SourceConnector("crm", Failing(ConfigurationError("wrong")), bus).start(
                ["contact"], keep_trying=True
            )


async def test_settings_that_turn_out_wrong_end_it() -> None:
    class Wrong(ScriptedSource):
        async def position(self, object: str) -> bytes:
            raise ConfigurationError("instance_url is of another org")

    async with EventBusFactory.create("memory") as bus:
        connector = SourceConnector("crm", Wrong(), bus)
        await connector.start(["contact"])
        await eventually(lambda: connector.get_status()["status"] == "error")
        assert "another org" in connector.get_status()["last_error"]
        (task,) = connector._tasks.values()
        await asyncio.wait_for(task, 5)
        await connector.disconnect()
