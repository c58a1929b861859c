"""One bad source, or one bad object, stops nothing else."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from dimesh import EventBusFactory
from dimesh.backends.cdc.outbox import watch
from dimesh.bus.retry import RetryPolicy
from dimesh.cdc import SourceConnector
from dimesh.cdc import connector as connector_module
from dimesh.cdc import runner as runner_module
from dimesh.errors import ConfigurationError, CredentialsError, SourceObjectError, SourceUnavailableError
from dimesh.mesh import Mesh
from dimesh.settings import load_settings
from dimesh.spi.cdc import ChangeBatch

from .conftest import eventually, published, streaming
from .scripted import ScriptedSource, change, row


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
        # Between two attempts: during one it is connecting.
        await eventually(lambda: mesh.cdc.get_status()["down"]["status"] == "error")
        status = mesh.cdc.get_status()
        assert "start the application that creates it" in status["down"]["last_error"]
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


async def test_failed_connections_are_retried(monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_failed_connections_are_not_retried_without_keep_trying() -> None:
    async with EventBusFactory.create("memory") as bus:
        for error in (SourceUnavailableError("away"), RuntimeError("a bug")):
            with pytest.raises(type(error)):
                await SourceConnector("crm", Failing(error), bus).start(["contact"])
        with pytest.raises(ConfigurationError):
            await SourceConnector("crm", Failing(ConfigurationError("wrong")), bus).start(
                ["contact"], keep_trying=True
            )


async def test_wrong_settings_end_the_retries() -> None:
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


class Refusing(ScriptedSource):
    """Refuses the object a few times, in the middle of its stream."""

    refusals = 0
    refused = 0

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        async for batch in super().stream(object, position):
            if self.refusals:
                self.refusals -= 1
                self.refused += 1
                raise SourceObjectError("HTTP 403: the permission was withdrawn")
            yield batch


async def test_a_refused_object_is_tried_again_and_every_phase_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runner_module, "REFUSED", RetryPolicy(base=0.02, maximum=0.05))
    caplog.set_level("INFO", "dimesh.cdc")
    source = Refusing([row(1, name="Ada")])
    async with EventBusFactory.create("memory", history=100) as bus:
        connector = SourceConnector("crm", source, bus)
        await connector.start(["contact"])
        await streaming(connector)
        source.refusals = 6  # more often than an unexpected error may occur
        await source.say(change("changed", key=1, after={"id": 1, "name": "Grace"}))
        await eventually(lambda: connector.get_status()["objects"]["contact"]["phase"] == "failed")
        assert "withdrawn" in connector.get_status()["objects"]["contact"]["error"]
        (_, event) = await published(bus, 2, "cdc.crm")
        assert event.payload["after"]["name"] == "Grace"
        assert source.refused == 6
        await streaming(connector)
        await connector.disconnect()
    told = [record.getMessage() for record in caplog.records]
    about = "source crm, object contact"
    assert [t for t in told if "cannot be captured" in t] == [
        f"{about} cannot be captured: SourceObjectError: HTTP 403: the permission was withdrawn"
    ]
    phases = [t.rpartition(": ")[2] for t in told if t.startswith(f"{about}: ")]
    assert phases[:4] == ["snapshot", "stream", "failed", "stream"]
    assert phases[-1] == "stopped"


async def test_a_change_without_a_key_is_skipped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    source = ScriptedSource([row(1, name="Ada")])
    async with EventBusFactory.create("memory", history=100) as bus:
        connector = SourceConnector("crm", source, bus)
        await connector.start(["contact"])
        await streaming(connector)
        upcoming = change("upcoming", key=None, after={"name": "nobody"})
        await source.say(upcoming, change("real", key=1, after={"id": 1, "name": "Grace"}))
        await source.say(upcoming)
        await source.say(change("last", key=1, after={"id": 1, "name": "Hopper"}))
        events = await published(bus, 3, "cdc.crm")
        assert [event.payload["after"]["name"] for event in events] == ["Ada", "Grace", "Hopper"]
        assert connector.get_status()["objects"]["contact"]["skipped"] == 2
        assert connector.report().objects["contact"].skipped == 2
        await connector.disconnect()
    assert caplog.text.count("a change without a key was skipped") == 1
