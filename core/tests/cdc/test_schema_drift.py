"""A source that describes its objects: registered, and said when it changes."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dimesh import EventBus, LocalSchemaRegistry
from dimesh.backends.cdc.outbox import watch
from dimesh.capabilities import Support
from dimesh.cdc import SourceConnector
from dimesh.errors import SourceUnavailableError
from dimesh.mesh import Mesh
from dimesh.settings import load_settings

from .conftest import eventually, published, streaming
from .scripted import ScriptedSource, change, row

SUBJECT = "cdc.crm.contact"


def schema(**fields: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": kind} for name, kind in fields.items()}}


class Described(ScriptedSource):
    def __init__(self, *rows: Any, **fields: str) -> None:
        super().__init__(rows, described=Support.FULL)
        self.now: dict[str, Any] = schema(**fields)
        self.asked = 0
        self.failing = False

    async def schema(self, object: str) -> Mapping[str, Any] | None:
        self.asked += 1
        if self.failing:
            raise SourceUnavailableError("no answer")
        return self.now


@pytest.fixture
async def registry() -> AsyncIterator[LocalSchemaRegistry]:
    async with LocalSchemaRegistry() as made:
        yield made


async def test_a_new_field_is_registered_and_published_before_its_change(
    any_bus: EventBus, registry: LocalSchemaRegistry
) -> None:
    source = Described(row(1, name="Ada", fax="7"), id="integer", name="string", fax="string")
    connector = SourceConnector("crm", source, any_bus, registry=registry)
    await connector.start(["contact"])
    await streaming(connector)
    assert (await registry.get_schema(SUBJECT)).schema == source.now
    source.now = schema(id="string", name="string", mail="string")
    await source.say(change("u1", after={"id": 1, "name": "Ada", "mail": "x"}))
    events = await published(any_bus, 3)
    types = [event.event_type.value for event in events]
    assert sorted(types) == ["cdc.schema_changed", "cdc.snapshot", "cdc.update"]
    said = next(e.payload for e in events if e.event_type.value == "cdc.schema_changed")
    assert said == {
        "connector_id": "crm",
        "object": "contact",
        "subject": SUBJECT,
        "version": 2,
        "refused": [],
        "added": ["mail"],
        "removed": ["fax"],
        "changed": ["id"],
    }
    assert (await registry.get_schema(SUBJECT)).version == 2
    await connector.disconnect()


async def test_changes_while_nothing_ran_are_published_once_at_the_start(
    any_bus: EventBus, registry: LocalSchemaRegistry
) -> None:
    first, second = schema(id="integer"), schema(id="integer", name="string")
    source = Described(row(1))
    for number, now in enumerate((first, second, second, first, first), 1):
        source.now = now
        connector = SourceConnector("crm", source, any_bus, registry=registry)
        await connector.start(["contact"])
        await streaming(connector)
        await connector.disconnect()
        assert (await registry.get_schema(SUBJECT)).schema["properties"] == now["properties"], number
    said = await published(any_bus, 2, "cdc.crm", "cdc.schema_changed")
    assert [(e.payload["added"], e.payload["removed"]) for e in said] == [(["name"], []), ([], ["name"])]


async def test_an_undescribed_field_is_requested_once_and_published(
    any_bus: EventBus, registry: LocalSchemaRegistry
) -> None:
    source = Described(id="integer")
    for turn in range(2):
        connector = SourceConnector("crm", source, any_bus, registry=registry)
        await connector.start(["contact"])
        await streaming(connector)
        for n in range(5):
            await source.say(change(f"u{turn}.{n}", after={"id": 1, "odd": n, "empty": None}))
        await published(any_bus, 1 + 5 * (turn + 1))
        await connector.disconnect()
    assert source.asked == 3, "at each start, and once for the new fields"
    (said,) = await published(any_bus, 1, "cdc.crm", "cdc.schema_changed")
    assert (said.payload["added"], said.payload["removed"]) == (["empty", "odd"], [])
    registered = (await registry.get_schema(SUBJECT)).schema["properties"]
    assert registered["odd"]["type"] == ["integer", "null"]
    assert "type" not in registered["empty"]
    # Once it is described, what was seen of it gives way.
    source.now = schema(id="integer", odd="number")
    connector = SourceConnector("crm", source, any_bus, registry=registry)
    await connector.start(["contact"])
    _, said = await published(any_bus, 2, "cdc.crm", "cdc.schema_changed")
    assert (said.payload["changed"], said.payload["removed"]) == (["odd"], [])
    await connector.disconnect()


async def test_an_unavailable_description_does_not_stop_changes(
    any_bus: EventBus, registry: LocalSchemaRegistry
) -> None:
    source = Described(row(1), id="integer")
    source.failing = True
    connector = SourceConnector("crm", source, any_bus, registry=registry)
    await connector.start(["contact"])
    await streaming(connector)
    await source.say(change("u1", after={"id": 1, "new": 1}))
    await published(any_bus, 2)
    await connector.disconnect()


async def test_a_refusal_of_the_registry_is_in_the_event(
    any_bus: EventBus, registry: LocalSchemaRegistry
) -> None:
    source = Described(id="integer")
    connector = SourceConnector("crm", source, any_bus, registry=registry)
    await connector.start(["contact"])
    await streaming(connector)
    await registry.set_compatibility(SUBJECT, "FULL")
    source.now = schema(id="string", other="string")
    await source.say(change("u1", after={"id": "1", "other": "x"}))
    (said,) = await published(any_bus, 1, "cdc.crm", "cdc.schema_changed")
    assert said.payload["version"] is None
    assert said.payload["refused"]
    await published(any_bus, 2)
    await connector.disconnect()


async def test_a_mesh_registers_the_tables_of_its_outbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app = sqlite3.connect("app.db")
    with app:
        app.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, product TEXT)")
        watch(app, "orders")
    app.close()
    source = {"driver": "outbox", "name": "shop", "objects": ["orders"], "options": {"path": "app.db"}}
    mesh = Mesh(load_settings(sources=[source]).settings)
    await mesh.start()
    connector = mesh.cdc.get_connector("shop")
    await eventually(lambda: connector.get_status()["objects"]["orders"]["phase"] == "stream")
    found = await mesh.registry.get_schema("cdc.outbox.orders")
    assert list(found.schema["properties"]) == ["id", "product"]
    await mesh.close()
