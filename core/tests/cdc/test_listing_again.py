"""Changes that the system reports by no event are found by listing the rows again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from dimesh import EventBus, SqliteCDCStore
from dimesh.cdc import SourceConnector
from dimesh.cdc.state import Progress
from dimesh.errors import SourcePositionLostError
from dimesh.spi.cdc import ChangeBatch, DeletionLog, Gap, Relists

from .conftest import eventually, published, streaming
from .scripted import ScriptedSource, change, row


class Silent(ScriptedSource):
    """A source of rows whose changes are not in the stream."""

    interval: float | None = 0.05

    def relist_interval(self, object: str) -> float | None:
        return self.interval


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteCDCStore]:
    made = SqliteCDCStore(tmp_path / "cdc.db")
    yield made
    await made.close()


async def test_only_what_changed_is_published(any_bus: EventBus, store: SqliteCDCStore) -> None:
    source = Silent([row(1, name="Ada"), row(2, name="Bob"), row(3, name="Eve")])
    assert isinstance(source, Relists)
    connector = SourceConnector("crm", source, any_bus, store=store, clock_skew=0.0)
    await connector.start(["contact"])
    await published(any_bus, 3)
    source.rows = [row(1, name="Ada L."), row(2, name="Bob"), row(4, name="New")]
    found = {e.payload["primary_key"]["id"]: e.payload for e in (await published(any_bus, 6))[3:]}
    assert {key: (p["operation"], p["before"], p["after"]) for key, p in found.items()} == {
        1: ("update", {"id": 1, "name": "Ada"}, {"id": 1, "name": "Ada L."}),
        3: ("delete", {"id": 3, "name": "Eve"}, None),
        4: ("insert", None, {"id": 4, "name": "New"}),
    }
    assert found[1]["changed_fields"] == ["name"]
    assert found[1]["as_of"] is not None
    assert found[1]["snapshot"] is True
    # A row that returns to an earlier state is a change, too.
    source.rows[0] = row(1, name="Ada")
    again = (await published(any_bus, 7))[-1].payload
    assert (again["before"]["name"], again["after"]["name"]) == ("Ada L.", "Ada")
    assert connector.get_status()["objects"]["contact"]["phase"] in ("stream", "snapshot")
    await connector.disconnect()


class Logged(Silent):
    """A source that has lost its record of deletes."""

    asked = 0
    listed = 0

    def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        self.listed += 1
        return super().snapshot(object, resume)

    async def deleted(self, object: str, since: datetime | None) -> AsyncIterator[ChangeBatch]:
        self.asked += 1
        raise SourcePositionLostError("the record of deletes was purged")
        yield


async def test_listing_again_without_stored_rows_does_not_ask_for_the_record_of_deletes(
    any_bus: EventBus,
) -> None:
    """A record that does not go back would be a new gap at each listing, although nothing happened."""
    source = Logged([row(1, name="Ada")])
    assert isinstance(source, DeletionLog)
    connector = SourceConnector("crm", source, any_bus)
    await connector.start(["contact"])
    await eventually(lambda: source.listed >= 3)
    report = connector.report().objects["contact"]
    assert (source.asked, report.gaps) == (0, 0)
    await source.say(Gap("contact", "overflow"))
    await eventually(lambda: source.asked == 1)
    await connector.disconnect()


async def test_a_row_that_the_stream_reads_again_is_published_if_it_differs(
    any_bus: EventBus, store: SqliteCDCStore
) -> None:
    source = ScriptedSource([row(1, name="Ada")])
    connector = SourceConnector("crm", source, any_bus, store=store)
    await connector.start(["contact"])
    await streaming(connector)
    await source.say(row(1, name="Ada"))
    await source.say(row(1, name="Ada L."))
    await source.say(change("u1", key=1, after={"id": 1, "name": "Eve"}))
    _, first, second = await published(any_bus, 3)
    assert (first.payload["operation"], first.payload["after"]["name"]) == ("update", "Ada L.")
    assert second.payload["after"]["name"] == "Eve"
    await eventually(lambda: connector.get_status()["objects"]["contact"]["changes"] == 2)
    await connector.disconnect()


async def test_rows_of_two_api_versions_are_not_compared(any_bus: EventBus, store: SqliteCDCStore) -> None:
    """A field that one version has and the other does not is no change."""
    old, new = {"id": 1, "name": "Ada"}, {"id": 1, "full_name": "Ada"}
    source = ScriptedSource([replace(row(1, name="Ada"), api_version="2020")])
    connector = SourceConnector("crm", source, any_bus, store=store)
    await connector.start(["contact"])
    await streaming(connector)
    await source.say(replace(change("u1", key=1, after=new), api_version="2026"))
    await source.say(replace(change("u2", key=1, after=new | {"city": "Paris"}), api_version="2026"))
    _, other, same = await published(any_bus, 3)
    assert (other.payload["before"], other.payload["changed_fields"]) == (None, [])
    assert (same.payload["before"], same.payload["changed_fields"]) == (new, ["city"])
    # A row that is read in another version than the last change does not count as updated.
    await source.say(replace(row(1, name="Ada"), api_version="2020"))
    read = (await published(any_bus, 4))[-1].payload
    assert (read["operation"], read["before"], read["after"]) == ("snapshot", None, old)
    await connector.disconnect()


def test_a_listing_takes_a_tenth_of_the_time_at_most() -> None:
    progress = Progress(position=b"").start_relisting(1_000.0).enter_streaming(1_100.0, 1.0)
    assert progress.relist_at(60.0) == 1_100.0 + 900.0
    assert progress.relist_at(3_600.0) == 1_100.0 + 3_600.0
    assert not progress.relisting
    assert not progress.pending_repair


@pytest.mark.slow
async def test_a_listing_that_is_interrupted_is_continued(any_bus: EventBus, store: SqliteCDCStore) -> None:
    source = Silent([row(n, name="a") for n in range(6)])
    connector = SourceConnector("crm", source, any_bus, store=store)
    await connector.start(["contact"])
    await published(any_bus, 6)
    await streaming(connector)
    source.between_pages.clear()
    source.rows = [row(n, name="b") for n in range(6)]
    await eventually(lambda: connector.get_status()["objects"]["contact"]["phase"] == "snapshot")
    await connector.stop()
    source.between_pages.set()
    await connector.start(["contact"])
    found = (await published(any_bus, 12))[6:]
    assert sorted(e.payload["primary_key"]["id"] for e in found) == list(range(6))
    assert {e.payload["operation"] for e in found} == {"update"}
    await connector.disconnect()
