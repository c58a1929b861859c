"""Gaps are told and repaired: at once, but not without end, or when somebody asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dimesh import EventBus, EventBusFactory
from dimesh.cdc import SourceConnector, SqliteCDCStore
from dimesh.errors import ConfigurationError
from dimesh.spi.cdc import Gap

from .conftest import eventually, published, streaming
from .scripted import ScriptedSource, change, row


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteCDCStore]:
    made = SqliteCDCStore(tmp_path / "cdc.db")
    yield made
    await made.close()


def at(connector: SourceConnector) -> dict[str, Any]:
    found: dict[str, Any] = connector.get_status()["objects"]["contact"]
    return found


async def test_a_gap_says_when_it_may_be(any_bus: EventBus, store: SqliteCDCStore) -> None:
    source = ScriptedSource([row(1, name="Ada")])
    connector = SourceConnector("crm", source, any_bus, store=store)
    await connector.start(["contact"])
    await streaming(connector)
    await source.say(Gap("contact", "too much"))
    (gap,) = await published(any_bus, 1, "cdc.crm", "cdc.gap")
    assert gap.payload["object"] == "contact"
    assert gap.payload["cause"] == "too much"
    assert gap.payload["since"] <= gap.payload["until"]
    await published(any_bus, 1, "cdc.crm", "cdc.repaired")
    await connector.disconnect()


async def test_a_position_that_was_lost_says_when_it_was_stored(
    any_bus: EventBus, store: SqliteCDCStore
) -> None:
    source = ScriptedSource([row(1, name="Ada"), row(2, name="Bob")])
    connector = SourceConnector("crm", source, any_bus, store=store)
    await connector.start(["contact"])
    await streaming(connector)
    await source.say(change("u1", key=1, after={"id": 1, "name": "Eve"}))
    await published(any_bus, 3)
    await eventually(lambda: source.acknowledged)  # and stored before that
    stored = connector.offsets()["contact"].updated_at
    await connector.stop()
    source.log += [[], [], []]
    source.oldest = len(source.log)
    del source.rows[1]
    await connector.start(["contact"])
    (gap,) = await published(any_bus, 1, "cdc.crm", "cdc.gap")
    assert abs((stored - _time(gap.payload["since"])).total_seconds()) < 0.001
    (repaired,) = await published(any_bus, 1, "cdc.crm", "cdc.repaired")
    assert (repaired.payload["rows"], repaired.payload["deleted"]) == (1, 1)
    await connector.disconnect()


def _time(text: str) -> Any:
    from datetime import datetime

    return datetime.fromisoformat(text)


async def test_gaps_without_end_are_not_repaired_without_end(
    any_bus: EventBus, store: SqliteCDCStore
) -> None:
    """Repairs take at most half of the time (here less); what changes goes on meanwhile, and one repair is for all that is owed."""
    source = ScriptedSource([row(1, name="Ada")])
    connector = SourceConnector("crm", source, any_bus, store=store, repair_pause=40.0)
    await connector.start(["contact"])
    await streaming(connector)
    await source.say(Gap("contact", "first"))
    await published(any_bus, 1, "cdc.crm", "cdc.repaired")
    source.between_pages.clear()
    await source.say(Gap("contact", "second"))
    await eventually(lambda: at(connector)["phase"] == "snapshot")
    source.between_pages.set()
    await published(any_bus, 2, "cdc.crm", "cdc.repaired")
    for n in range(20):
        await source.say(
            Gap("contact", f"cause {n % 2}"), change(f"u{n}", key=1, after={"id": 1, "name": f"n{n}"})
        )
    await eventually(lambda: at(connector)["gaps"] == 22)
    assert at(connector)["repair_owed"] == "cause 0; cause 1"
    repaired = await published(any_bus, 3, "cdc.crm", "cdc.repaired")
    assert [event.payload["cause"] for event in repaired] == ["first", "second", "cause 0; cause 1"]
    events = await published(any_bus, 0)
    kinds = [event.event_type.value for event in events]
    assert kinds.count("cdc.update") == 20
    assert max(n for n, kind in enumerate(kinds) if kind == "cdc.update") < len(kinds) - 2
    assert at(connector)["repair_owed"] is None
    await connector.disconnect()


async def test_a_repair_that_is_owed_is_not_forgotten_by_a_restart(tmp_path: Path) -> None:
    source = ScriptedSource([row(1, name="Ada")])
    for turn in range(2):
        store = SqliteCDCStore(tmp_path / "cdc.db")
        async with EventBusFactory.create("sqlite", path=str(tmp_path / "mesh.db")) as bus:
            connector = SourceConnector(
                "crm", source, bus, store=store, repair="manual" if turn == 0 else "auto"
            )
            await connector.start(["contact"])
            if turn == 0:
                await streaming(connector)
                await source.say(Gap("contact", "too much"))
                await eventually(lambda c=connector: at(c)["repair_owed"] == "too much")
            else:
                (repaired,) = await published(bus, 1, "cdc.crm", "cdc.repaired")
                assert repaired.payload["cause"] == "too much"
            await connector.disconnect()
        await store.close()


async def test_manual_repairs_wait_for_somebody_who_asks(any_bus: EventBus, store: SqliteCDCStore) -> None:
    source = ScriptedSource([row(1, name="Ada"), row(2, name="Bob")])
    connector = SourceConnector("crm", source, any_bus, store=store, repair="manual")
    await connector.start(["contact"])
    await streaming(connector)
    await source.say(Gap("contact", "too much"))
    await source.say(change("u1", key=1, after={"id": 1, "name": "Eve"}))
    await published(any_bus, 1, "cdc.crm", "cdc.update")
    assert (at(connector)["phase"], at(connector)["repair_owed"]) == ("stream", "too much")
    del source.rows[1]
    await connector.stop()
    await connector.resnapshot("contact")
    await connector.start(["contact"])
    (repaired,) = await published(any_bus, 1, "cdc.crm", "cdc.repaired")
    assert (repaired.payload["cause"], repaired.payload["deleted"]) == ("too much", 1)
    await streaming(connector)
    assert at(connector)["repair_owed"] is None
    await connector.disconnect()


async def test_another_way_to_repair_is_refused(any_bus: EventBus) -> None:
    with pytest.raises(ConfigurationError, match="auto or manual"):
        SourceConnector("crm", ScriptedSource(), any_bus, repair="never")


async def test_a_quiet_object_is_repaired_when_it_may(any_bus: EventBus, store: SqliteCDCStore) -> None:
    """Nothing comes that could remind of what is owed."""
    source = ScriptedSource([row(n, name="x") for n in range(6)])
    connector = SourceConnector("crm", source, any_bus, store=store, repair_pause=5.0)
    await connector.start(["contact"])
    await streaming(connector)
    await source.say(Gap("contact", "first"))
    await published(any_bus, 1, "cdc.crm", "cdc.repaired")
    await source.say(Gap("contact", "second"))
    async with asyncio.timeout(10):
        await published(any_bus, 2, "cdc.crm", "cdc.repaired")
    await connector.disconnect()
