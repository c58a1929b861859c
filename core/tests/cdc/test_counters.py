"""The counters of a captured object: what is counted, and that the numbers continue in the next run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dimesh import EventBus, EventBusFactory, SqliteCDCStore
from dimesh.cdc import SourceConnector
from dimesh.cdc.reports import ObjectReport, load_report
from dimesh.clock import ManualClock
from dimesh.contact import report_request
from dimesh.sourcekit.budget import Priority, RateLimiter
from dimesh.spi.cdc import Change, Gap, Operation

from .conftest import eventually, published, streaming
from .scripted import START, ScriptedSource, change, row


class Telling(ScriptedSource):
    """A source that reports its requests, and that does not say what became of row 2."""

    async def position(self, object: str) -> bytes:
        report_request()
        return await super().position(object)

    async def read_rows(self, object: str, keys: Sequence[Mapping[str, Any]]) -> Sequence[Change | None]:
        answers = await super().read_rows(object, keys)
        return [None if key["id"] == 2 else answer for key, answer in zip(keys, answers, strict=True)]


def counts(report: ObjectReport) -> dict[str, int]:
    names = ("rows", "changes", "gaps", "repairs", "repaired", "deleted", "missing", "skipped", "requests")
    return {name: getattr(report, name) for name in names}


async def stored(store: SqliteCDCStore, name: str = "contact") -> ObjectReport:
    report = await load_report(store, "crm")
    assert report is not None
    return report.objects[name]


async def test_every_counter_continues_in_the_next_run(any_bus: EventBus, tmp_path: Path) -> None:
    store = SqliteCDCStore(tmp_path / "cdc.db")
    source = Telling([row(n, name="Ada") for n in range(1, 5)])
    connector = SourceConnector("crm", source, any_bus, store=store, repair_pause=0.0)
    await connector.start(["contact"])
    await streaming(connector)
    del source.rows[:3]  # rows 1 and 3 are deleted, and the source does not tell what became of row 2
    keyless = change("none", Operation.INSERT, None, {})
    late = change("u1", Operation.UPDATE, 4, {"id": 4}, visible=START + timedelta(seconds=7))
    await source.say(keyless, late)
    await source.say(Gap("contact", "lost"))
    await eventually(lambda: connector.report().objects["contact"].repaired == 1)
    await streaming(connector)
    await connector.stop()
    first = await stored(store)
    assert counts(first) == {
        "rows": 5, "changes": 3, "gaps": 1, "repairs": 1, "repaired": 1, "deleted": 2, "missing": 1, "skipped": 1,
        "requests": 1,
    }  # fmt: skip
    assert first.held_back == 7
    # A run of another object leaves them as they are, and so does a process that has nothing new to count.
    other = SourceConnector("crm", Telling(), any_bus, store=store)
    await other.start(["account"])
    await streaming(other, "account")
    await other.stop()
    assert counts(await stored(store)) == counts(first)
    source.rows = []
    await connector.resnapshot("contact")
    await connector.start(["contact"])
    await eventually(lambda: connector.report().objects["contact"].repaired == 2)
    await connector.stop()
    second = await stored(store)
    assert counts(second) == {**counts(first), "changes": 4, "repairs": 2, "repaired": 2, "deleted": 3}
    assert second.held_back == first.held_back
    await store.close()


async def test_a_gap_that_the_source_repairs_is_a_repair_that_begins_and_ends() -> None:
    source = ScriptedSource([row(1, name="Ada")])
    async with EventBusFactory.create("memory") as bus:
        connector = SourceConnector("crm", source, bus)
        await connector.start(["contact"])
        await streaming(connector)
        gone = change("d1", Operation.DELETE, 1)
        await source.say(Gap("contact", "endpoint", resnapshot=False, repair=[gone]))
        await eventually(lambda: connector.report().objects["contact"].gaps == 1)
        found = counts(connector.report().objects["contact"])
        assert (found["repairs"], found["repaired"], found["deleted"]) == (1, 1, 1)
        await connector.disconnect()


async def test_a_gap_whose_rows_are_not_found_is_not_reported_as_repaired(any_bus: EventBus) -> None:
    """The source reads nothing again and has no rows for it: a consumer must not believe that its copy is right again."""
    source = ScriptedSource([row(1, name="Ada")])
    connector = SourceConnector("crm", source, any_bus)
    await connector.start(["contact"])
    await streaming(connector)
    await source.say(Gap("contact", "the row 2 is not found", resnapshot=False))
    await source.say(Gap("contact", "row 1 was left out", resnapshot=False, repair=[row(1, name="Eve")]))
    found = await published(any_bus, 5)
    assert [(event.event_type.value, event.payload.get("cause")) for event in found] == [
        ("cdc.snapshot", None),
        ("cdc.gap", "the row 2 is not found"),
        ("cdc.gap", "row 1 was left out"),
        ("cdc.snapshot", None),
        ("cdc.repaired", "row 1 was left out"),
    ]
    await eventually(lambda: connector.report().objects["contact"].repaired == 1)
    figures = counts(connector.report().objects["contact"])
    assert (figures["gaps"], figures["repairs"], figures["repaired"]) == (2, 1, 1)
    await connector.disconnect()


@pytest.mark.parametrize("seconds", [0.0, 30.0, 59.0])
async def test_the_use_of_a_budget_is_that_of_the_last_minute(seconds: float) -> None:
    clock = ManualClock()
    limiter = RateLimiter(1.0, clock, burst=30)
    assert limiter.used == 0
    await clock.advance(seconds)
    for _ in range(30):
        async with limiter.request(Priority.STREAM):
            pass
    assert limiter.used == pytest.approx(0.5)
    await clock.advance(60 - seconds)
    assert limiter.used == pytest.approx(0.5)
    await clock.advance(30)
    assert limiter.used == pytest.approx(0.25)
    await clock.advance(30)
    assert limiter.used == 0
