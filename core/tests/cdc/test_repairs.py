"""Gaps are told and repaired: at once, but not without end, or when somebody asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from dimesh import EventBus, EventBusFactory, SqliteCDCStore
from dimesh.cdc import SourceConnector
from dimesh.errors import ConfigurationError, SourcePositionLostError
from dimesh.spi.cdc import Change, ChangeBatch, Gap, Operation

from .conftest import eventually, published, streaming
from .scripted import START, ScriptedSource, change, row


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteCDCStore]:
    made = SqliteCDCStore(tmp_path / "cdc.db")
    yield made
    await made.close()


def at(connector: SourceConnector) -> dict[str, Any]:
    found: dict[str, Any] = connector.get_status()["objects"]["contact"]
    return found


async def test_a_gap_has_its_interval(any_bus: EventBus, store: SqliteCDCStore) -> None:
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


async def test_the_gap_of_a_lost_position_starts_when_it_was_stored(
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
    return datetime.fromisoformat(text)


@pytest.mark.slow
async def test_repairs_of_endless_gaps_are_limited(any_bus: EventBus, store: SqliteCDCStore) -> None:
    """Repairs take at most half of the time (here less), changes are captured meanwhile, and one repair covers all pending gaps."""
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
    assert at(connector)["pending_repair"] == "cause 0; cause 1"
    repaired = await published(any_bus, 3, "cdc.crm", "cdc.repaired")
    assert [event.payload["cause"] for event in repaired] == ["first", "second", "cause 0; cause 1"]
    events = await published(any_bus, 0)
    kinds = [event.event_type.value for event in events]
    assert kinds.count("cdc.update") == 20
    assert max(n for n, kind in enumerate(kinds) if kind == "cdc.update") < len(kinds) - 2
    assert at(connector)["pending_repair"] is None
    await connector.disconnect()


async def test_a_pending_repair_survives_a_restart(tmp_path: Path) -> None:
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
                await eventually(lambda c=connector: at(c)["pending_repair"] == "too much")
            else:
                (repaired,) = await published(bus, 1, "cdc.crm", "cdc.repaired")
                assert repaired.payload["cause"] == "too much"
            await connector.disconnect()
        await store.close()


async def test_manual_repairs_wait_for_a_request(any_bus: EventBus, store: SqliteCDCStore) -> None:
    source = ScriptedSource([row(1, name="Ada"), row(2, name="Bob")])
    connector = SourceConnector("crm", source, any_bus, store=store, repair="manual")
    await connector.start(["contact"])
    await streaming(connector)
    await source.say(Gap("contact", "too much"))
    await source.say(change("u1", key=1, after={"id": 1, "name": "Eve"}))
    await published(any_bus, 1, "cdc.crm", "cdc.update")
    assert (at(connector)["phase"], at(connector)["pending_repair"]) == ("stream", "too much")
    del source.rows[1]
    await connector.stop()
    await connector.resnapshot("contact")
    await connector.start(["contact"])
    (repaired,) = await published(any_bus, 1, "cdc.crm", "cdc.repaired")
    assert (repaired.payload["cause"], repaired.payload["deleted"]) == ("too much", 1)
    await streaming(connector)
    assert at(connector)["pending_repair"] is None
    await connector.disconnect()


async def test_an_unknown_repair_mode_is_refused(any_bus: EventBus) -> None:
    with pytest.raises(ConfigurationError, match="auto or manual"):
        SourceConnector("crm", ScriptedSource(), any_bus, repair="never")


async def test_a_quiet_object_is_repaired_when_due(any_bus: EventBus, store: SqliteCDCStore) -> None:
    """No batch arrives that could trigger the pending repair."""
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


class Lossy(ScriptedSource):
    """Its lists leave rows out, and it answers questions about single rows as a test says."""

    def __init__(self, rows: Sequence[Change], answers: Mapping[int, list[Change | None]]) -> None:
        super().__init__(rows)
        self.answers = {key: list(given) for key, given in answers.items()}
        self.asked: list[int] = []

    async def read_rows(self, object: str, keys: Sequence[Mapping[str, Any]]) -> Sequence[Change | None]:
        self.asked += [key["id"] for key in keys]
        return [self.answers[key["id"]].pop(0) for key in keys]


def gone(key: int) -> Change:
    return change("gone", Operation.DELETE, key)


async def test_absence_is_not_a_delete(
    any_bus: EventBus, store: SqliteCDCStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Only what the source says twice was deleted is; a row that it has is published; of the rest it is said that it is missing."""
    rows = [row(n, name=f"n{n}") for n in range(1, 6)]
    answers: dict[int, list[Change | None]] = {
        2: [row(2, name="unlisted")],
        3: [gone(3), gone(3)],
        4: [gone(4), row(4, name="late")],  # the first read lagged behind
        5: [None, None],
    }
    source = Lossy(rows, answers)
    connector = SourceConnector("crm", source, any_bus, store=store)
    await connector.start(["contact"])
    await streaming(connector)
    del source.rows[1:]
    await source.say(Gap("contact", "too much"))
    (repaired,) = await published(any_bus, 1, "cdc.crm", "cdc.repaired")
    assert repaired.payload["deleted"] == 1
    events = await published(any_bus, 0)
    deleted = [e.payload["primary_key"] for e in events if e.event_type.value == "cdc.delete"]
    assert deleted == [{"id": 3}]
    names = [e.payload["after"]["name"] for e in events if e.event_type.value == "cdc.snapshot"][5:]
    assert names == ["n1", "unlisted", "late"]
    (missing,) = [e for e in events if e.event_type.value == "cdc.missing"]
    assert missing.payload["primary_keys"] == [{"id": 5}]
    assert missing.payload["cause"] == "too much"
    assert source.asked == [2, 3, 4, 5, 3, 4]
    assert at(connector)["missing"] == 1
    assert "1 rows are missing in the list" in caplog.text
    # The next repair asks again about what is missing still, and not about what was deleted.
    source.answers = {2: [gone(2), gone(2)], 4: [row(4, name="late")], 5: [gone(5), gone(5)]}
    await source.say(Gap("contact", "again"))
    (_, again) = await published(any_bus, 2, "cdc.crm", "cdc.repaired")
    assert again.payload["deleted"] == 2
    await connector.disconnect()


async def test_without_questions_nothing_counts_as_deleted(any_bus: EventBus, store: SqliteCDCStore) -> None:
    class Silent(ScriptedSource):
        read_rows = None  # type: ignore[assignment]

    source = Silent([row(1, name="Ada"), row(2, name="Bob")])
    connector = SourceConnector("crm", source, any_bus, store=store)
    await connector.start(["contact"])
    await streaming(connector)
    del source.rows[1]
    await source.say(Gap("contact", "too much"))
    (repaired,) = await published(any_bus, 1, "cdc.crm", "cdc.repaired")
    assert repaired.payload["deleted"] == 0
    (missing,) = await published(any_bus, 1, "cdc.crm", "cdc.missing")
    assert missing.payload["primary_keys"] == [{"id": 2}]
    await connector.disconnect()


class WithDeletionLog(ScriptedSource):
    """A source with a log of deletes that does not go back to the gap."""

    asked: list[datetime | None]

    async def deleted(self, object: str, since: datetime | None) -> AsyncIterator[ChangeBatch]:
        self.asked.append(since)
        yield ChangeBatch([change("d2", Operation.DELETE, 2)], b"")
        raise SourcePositionLostError("the log was purged")


async def test_a_log_of_deletes_that_does_not_go_back_to_the_gap_is_a_gap(any_bus: EventBus) -> None:
    source = WithDeletionLog([row(1, name="Ada")])
    source.asked = []
    connector = SourceConnector("crm", source, any_bus)
    await connector.start(["contact"])
    await streaming(connector)
    await source.say(Gap("contact", "too much", START))
    (repaired,) = await published(any_bus, 1, "cdc.crm", "cdc.repaired")
    assert repaired.payload["deleted"] is None
    first, second = await published(any_bus, 2, "cdc.crm", "cdc.gap")
    assert (first.payload["cause"], second.payload["cause"]) == ("too much", "the log was purged")
    assert source.asked == [START]
    assert second.payload["since"] == START.isoformat()
    assert len(await published(any_bus, 1, "cdc.crm", "cdc.delete")) == 1
    await connector.disconnect()
