"""Changes of phase as events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dimesh import CDCConnector, EventBus, EventBusFactory, SqliteCDCStore
from dimesh.cdc import SourceConnector
from dimesh.cdc.status_events import MOST_WAITING
from dimesh.clock import ManualClock
from dimesh.errors import PublishError, SourceObjectError, SourceUnavailableError
from dimesh.events.event import Event
from dimesh.spi.cdc import Change, ChangeBatch, Gap
from dimesh.spi.interceptor import Publishing

from .conftest import eventually, published, streaming
from .scripted import ScriptedSource, change, row


class Faulty(ScriptedSource):
    """A source whose stream fails while ``fault`` is set."""

    fault: Exception | None = None
    attempts = 0

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        self.attempts += 1
        if self.fault is not None:
            raise self.fault
        async for batch in super().stream(object, position):
            yield batch
            if self.fault is not None:
                raise self.fault

    async def fail(self, error: Exception, *item: Change | Gap) -> None:
        self.fault = error
        await self.say(*item)


def changes(events: list[Event]) -> list[tuple[str, str]]:
    return [(e.payload["previous_phase"], e.payload["phase"]) for e in events]


async def test_each_change_of_phase_is_an_event(any_bus: EventBus, tmp_path: Path) -> None:
    store = SqliteCDCStore(tmp_path / "cdc.db")
    source = ScriptedSource([row(1, name="Ada")])
    connector = SourceConnector("crm", source, any_bus, store=store, status_events=True)
    await connector.start(["contact"])
    await streaming(connector)
    await source.say(Gap("contact", "lost"))
    await eventually(lambda: connector.report().objects["contact"].repaired == 1)
    await streaming(connector)
    connector.pause()
    await source.say(change("u1", after={"id": 1}))
    await eventually(lambda: connector.report().objects["contact"].phase == "paused")
    connector.resume()
    await streaming(connector)
    await connector.disconnect()
    found = await published(any_bus, 7, "cdc.crm", "cdc.status")
    assert changes(found) == [
        ("waiting", "snapshot"),
        ("snapshot", "stream"),
        ("stream", "snapshot"),
        ("snapshot", "stream"),
        ("stream", "paused"),
        ("paused", "stream"),
        ("stream", "stopped"),
    ]
    assert [e.payload["repair"] for e in found] == [None, None, "lost", None, None, None, None]
    assert {(e.payload["connector_id"], e.payload["object"]) for e in found} == {("crm", "contact")}
    assert found[0].metadata.tags["object_type"] == "contact"
    assert "primary_key" not in found[0].payload
    await store.close()


async def test_the_attempts_of_an_outage_are_no_changes(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    source = Faulty([row(1, name="Ada")])
    async with EventBusFactory.create("memory", history=100, clock=clock) as bus:
        connector = SourceConnector("crm", source, bus, status_events=True)
        await connector.start(["contact"])
        await streaming(connector)
        away = SourceUnavailableError("https://user:hunter2@crm.example is away")
        await source.fail(away, change("u1", after={"id": 1}))
        for refused in (False, True):
            before = source.attempts
            if refused:
                source.fault = SourceObjectError("the permission is missing")
            while source.attempts < before + 4:
                await clock.advance(600)
        source.fault = None
        while connector.report().objects["contact"].error:
            await source.say(change("u2", after={"id": 1}))
            await clock.advance(600)
        await connector.disconnect()
        found = await published(bus, 6, "cdc.crm", "cdc.status")
    assert changes(found)[2:] == [
        ("stream", "backoff"),
        ("backoff", "failed"),
        ("failed", "stream"),
        ("stream", "stopped"),
    ]
    assert "is away" in found[2].payload["error"]
    assert "hunter2" not in str([e.payload for e in found])
    assert "the permission is missing" in found[3].payload["error"]
    assert [e.payload["error"] for e in found[4:]] == [None, None]


async def test_a_refusal_is_announced_once() -> None:
    source = Faulty([row(1, name="Ada")])
    async with EventBusFactory.create("memory", history=100) as bus:
        connector = SourceConnector("crm", source, bus, status_events=True)
        await connector.start(["contact"])
        await streaming(connector)
        await source.fail(SourceObjectError("the permission is missing"), change("u1", after={"id": 1}))
        await eventually(lambda: connector.report().objects["contact"].phase == "failed")
        await connector.disconnect()
        found = await published(bus, 3, "cdc.crm", "cdc.status")
    assert changes(found)[2:] == [("stream", "failed")]  # what has failed does not stop


class Broken:
    """An interceptor that refuses the events of a type while it is broken."""

    def __init__(self) -> None:
        self.broken = True
        self.refused = 0

    async def publish(self, publishing: Publishing, events: Any, call_next: Any) -> Any:
        if self.broken and any(e.event_type.value == "cdc.status" for e in events):
            self.refused += 1
            raise PublishError("the bus is down")
        return await call_next(events)


@pytest.mark.slow
async def test_a_bus_that_cannot_publish_them_does_not_delay_capture() -> None:
    broken = Broken()
    async with EventBusFactory.create("memory", history=1_000, interceptors=[broken]) as bus:
        source = ScriptedSource([row(1, name="Ada")])
        connector: CDCConnector = SourceConnector("crm", source, bus, status_events=True)
        await connector.start(["contact"])
        await streaming(connector)
        await source.say(change("u1", after={"id": 1}))
        await published(bus, 1, "cdc.crm", "cdc.update")
        await eventually(lambda: broken.refused)
        assert await published(bus, 0, "cdc.crm", "cdc.status") == []
        broken.broken = False
        found = await published(bus, 2, "cdc.crm", "cdc.status")
        assert changes(found) == [("waiting", "snapshot"), ("snapshot", "stream")]
        # For ever down: the newest ones wait, and stopping does not.
        broken.broken = True
        for _ in range(MOST_WAITING):
            connector.pause()
            await source.say(change("u2", after={"id": 1}))
            await eventually(lambda: connector.report().objects["contact"].phase == "paused")
            connector.resume()
            await streaming(connector)
        assert connector._feed is not None
        assert connector._feed.dropped >= MOST_WAITING - 1
        async with asyncio.timeout(8):
            await connector.disconnect()
