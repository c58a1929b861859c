"""What an event says of a change."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from dimesh import CDCEvent, CDCOperation, Event, EventBus
from dimesh.cdc import SourceConnector
from dimesh.cdc.events import NAMESPACE
from dimesh.errors import ConfigurationError
from dimesh.spi.cdc import Before, Gap, Operation

from .conftest import eventually, published, streaming
from .scripted import ScriptedSource, change, row


async def test_the_event_has_everything_that_the_source_reports(any_bus: EventBus) -> None:
    now = datetime.now(UTC)
    source = ScriptedSource([row(1, name="Ada")])
    connector = SourceConnector("crm", source, any_bus, "Growth Engine")
    await connector.start(["contact"])
    (snapshot,) = await published(any_bus, 1)
    await streaming(connector)
    await source.say(
        change(
            "u1",
            after={"id": 1, "name": "Eve"},
            before={"id": 1, "name": "Ada"},
            before_from=Before.DERIVED,
            changed_fields=["name"],
            actor="005A",
            own=True,
            transaction="tx-7",
            api_version="62.0",
            timestamp=now - timedelta(seconds=30),
            visible=now - timedelta(seconds=20),
            metadata={"note": "x"},
        )
    )
    update = (await published(any_bus, 2))[1]
    await connector.disconnect()
    said = update.payload
    assert list(said)[:5] == ["operation", "source_system", "connector_id", "object", "primary_key"]
    assert (said["connector_id"], update.metadata.tags["connector_id"]) == ("crm", "crm")
    assert {
        name: said[name]
        for name in (
            "before_from",
            "changed_fields",
            "actor",
            "own_write",
            "transaction",
            "snapshot",
            "api_version",
            "partial",
        )
    } == {
        "before_from": "derived",
        "changed_fields": ["name"],
        "actor": "005A",
        "own_write": True,
        "transaction": "tx-7",
        "snapshot": False,
        "api_version": "62.0",
        "partial": False,
    }
    assert said["metadata"]["note"] == "x"
    assert said["lag"]["source"] == 10.0
    assert 20.0 <= said["lag"]["ours"] < 60.0
    assert update.metadata.tags["own_write"] == "true"
    assert snapshot.payload["snapshot"] is True
    assert snapshot.payload["lag"]["source"] is None  # the source does not say when it let it be read
    assert 0.0 <= snapshot.payload["lag"]["ours"] < 30.0
    assert "own_write" not in snapshot.metadata.tags


async def test_different_clocks_never_cause_a_negative_lag(any_bus: EventBus) -> None:
    source = ScriptedSource()
    connector = SourceConnector("crm", source, any_bus)
    await connector.start(["contact"])
    await streaming(connector)
    ahead = datetime.now(UTC) + timedelta(hours=1)
    await source.say(change("u1", after={"id": 1}, timestamp=ahead, visible=ahead - timedelta(seconds=1)))
    (event,) = await published(any_bus, 1)
    assert event.payload["lag"] == {"source": 0.0, "ours": 0.0}
    await connector.disconnect()


def test_a_before_without_an_origin_is_native() -> None:
    stated = change("u", after={"id": 1}, before={"id": 1})
    assert CDCEvent.from_change(stated, "crm").to_event("P").payload["before_from"] == "native"
    assert (
        CDCEvent.from_change(change("u", after={"id": 1}), "crm").to_event("P").payload["before_from"]
        == "none"
    )


def test_a_delete_found_by_a_repair_is_marked_as_snapshot() -> None:
    found = change("repair-1", Operation.DELETE, metadata={"found_by": "repair"})
    assert CDCEvent.from_change(found, "crm").to_event("P").payload["snapshot"] is True


def test_an_event_can_be_created_with_few_arguments() -> None:
    event = CDCEvent(CDCOperation.INSERT, "crm", "contact", {"id": 1}, after={"id": 1}).to_event("P")
    assert event.payload["lag"] == {"source": None, "ours": None}
    assert event.metadata.tags == {
        "cdc_operation": "insert",
        "source_system": "crm",
        "object_type": "contact",
    }


def test_ids_are_standard_uuids_of_version_5() -> None:
    event = CDCEvent(CDCOperation.INSERT, "crm", "contact", {"id": 1}, identity="é")
    assert event.event_id == str(uuid.uuid5(NAMESPACE, "crm|contact|insert|é"))


async def test_a_row_that_returned_to_an_old_state_gets_a_new_event_id(any_bus: EventBus) -> None:
    """Consumers drop repeated event ids: after a gap or a reset, a row that is back in an old state is not a repetition."""
    rows: dict[int, str] = {}

    async def mirror(event: Event) -> None:
        if (after := event.payload.get("after")) is not None:
            rows[after["id"]] = after["name"]

    await any_bus.subscribe("cdc.crm", mirror, "mirror")
    source = ScriptedSource([row(1, name="Ada")])
    connector = SourceConnector("crm", source, any_bus)
    await connector.start(["contact"])
    await streaming(connector)
    await source.say(change("u1", after={"id": 1, "name": "Eve"}))
    await eventually(lambda: rows == {1: "Eve"})
    await connector.stop()
    source.log += [[change("u2", after={"id": 1, "name": "Ada"})]]  # nobody is told of this one
    source.oldest = 2
    await connector.start(["contact"])
    await eventually(lambda: rows == {1: "Ada"})
    await source.say(change("u3", after={"id": 1, "name": "Zoe"}))
    await eventually(lambda: rows == {1: "Zoe"})
    await source.say(Gap("contact", "unread", resnapshot=False, repair=[row(1, name="Ada")]))
    await eventually(lambda: rows == {1: "Ada"})
    await source.say(change("u4", after={"id": 1, "name": "Zoe"}))
    await eventually(lambda: rows == {1: "Zoe"})
    await connector.stop()
    await connector.reset("contact")
    await connector.start(["contact"])
    await eventually(lambda: rows == {1: "Ada"})
    await connector.disconnect()


async def test_two_accounts_with_the_same_rows(any_bus: EventBus) -> None:
    """Ids are chosen by users, or counted: two connectors on one topic neither suppress each other's changes nor share a key."""
    got: list[tuple[str, str]] = []

    async def note(event: Event) -> None:
        payload = event.payload
        got.append((payload["connector_id"], payload["after"]["name"]))

    await any_bus.subscribe("cdc.crm", note, "noted")
    connectors = []
    for name in ("first", "second"):
        source = ScriptedSource([row(1, name="Ada")])  # of the same identity in both
        connectors.append(SourceConnector(name, source, any_bus))
        await connectors[-1].start(["contact"])
        await streaming(connectors[-1])
        await source.say(change("u1", after={"id": 1, "name": "Eve"}))
    wanted = {(name, person) for name in ("first", "second") for person in ("Ada", "Eve")}
    await eventually(lambda: set(got) == wanted)
    assert len(got) == 4
    keys = {
        CDCEvent.from_change(row(1), "crm", connector_id=name).ordering_key for name in ("first", "second")
    }
    assert keys == {'first:contact:{"id": 1}', 'second:contact:{"id": 1}'}
    for connector in connectors:
        await connector.stop()


async def test_a_connector_with_a_topic_of_its_own(any_bus: EventBus) -> None:
    source = ScriptedSource([row(1, name="Ada")])
    connector = SourceConnector("eu", source, any_bus, topic="billing.eu")
    await connector.start(["contact"])
    await streaming(connector)
    await source.say(Gap("contact", "too much"), change("u1", after={"id": 1, "name": "Eve"}))
    events = await published(any_bus, 5, "billing.eu")
    assert {event.event_type.value for event in events} == {
        "cdc.snapshot", "cdc.gap", "cdc.update", "cdc.repaired",
    }  # fmt: skip
    assert "cdc.crm" not in await any_bus.door.topics()
    await connector.stop()
    await connector.resnapshot("contact")
    for name in ("dimesh.x", "a b", ""):
        with pytest.raises(ConfigurationError, match=r"^topic: "):
            SourceConnector("eu", source, any_bus, topic=name)
