"""A connector runs only once at a time: two would overwrite each other's positions."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dimesh import CDCConnector, EventBusFactory, SqliteCDCStore
from dimesh.cdc import SourceConnector
from dimesh.errors import ConfigurationError, SourceUnavailableError
from dimesh.spi.cdc import ChangeBatch

from .conftest import published, streaming
from .scripted import ScriptedSource, row

STARTS = """
import asyncio, sys
from dimesh import EventBusFactory, DimeshError
from dimesh import SqliteCDCStore
from dimesh.cdc import SourceConnector
from dimesh.backends.cdc.outbox import OutboxOptions, OutboxSource
from dimesh.clock import SystemClock

async def main():
    source = OutboxSource(OutboxOptions(path="nowhere.db"), SystemClock())
    async with EventBusFactory.create("memory") as bus:
        connector = SourceConnector("crm", source, bus, store=SqliteCDCStore(sys.argv[1]))
        for work in (connector.start(["contact"]), connector.reset("contact"), connector.resnapshot("contact")):
            try:
                await work
            except DimeshError as error:
                print(error)

asyncio.run(main())
"""


@pytest.mark.slow
async def test_another_process_is_refused(tmp_path: Path) -> None:
    store = SqliteCDCStore(tmp_path / "cdc.db")
    source = ScriptedSource([row(1, name="Ada")])
    async with EventBusFactory.create("memory", history=100) as bus:
        connector = SourceConnector("crm", source, bus, store=store)
        await connector.start(["contact"])
        await streaming(connector)

        def other() -> list[str]:
            command = [sys.executable, "-c", STARTS, str(tmp_path / "cdc.db")]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()

        refused = other()
        assert len(refused) == 3
        assert all("crm is already running" in line for line in refused)
        await connector.stop()
        # Now the other process gets the claim, and releases it after its source could not be opened.
        (reason,) = other()
        assert "nowhere.db" in reason
        await connector.start(["contact"])
        await connector.disconnect()
    await store.close()


async def test_a_failed_start_releases_its_claim(tmp_path: Path) -> None:
    class Away(ScriptedSource):
        async def open(self) -> None:
            raise SourceUnavailableError("away")

    store = SqliteCDCStore(tmp_path / "cdc.db")
    async with EventBusFactory.create("memory", history=100) as bus:
        first: CDCConnector = SourceConnector("crm", Away(), bus, store=store)
        with pytest.raises(SourceUnavailableError):
            await first.start(["contact"])
        second = SourceConnector("crm", ScriptedSource([row(1, name="Ada")]), bus, store=store)
        await second.start(["contact"])
        with pytest.raises(ConfigurationError, match="dimesh run"):
            await first.start(["contact"])
        await published(bus, 1)
        await second.disconnect()
    await store.close()


async def test_the_status_has_the_use_of_the_account(tmp_path: Path) -> None:
    class Metered(ScriptedSource):
        def account(self) -> dict[str, int]:
            return {"requests_of_a_day": 7}

    async with EventBusFactory.create("memory") as bus:
        assert SourceConnector("crm", Metered(), bus).get_status()["account"] == {"requests_of_a_day": 7}
        assert SourceConnector("crm", ScriptedSource(), bus).get_status()["account"] == {}


async def test_a_source_that_swallows_a_cancellation_does_not_hold_up_the_end() -> None:
    class Deaf(ScriptedSource):
        closed = False

        async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:  # as a client does that takes it for a time-out of its own
                await asyncio.Event().wait()
            yield ChangeBatch([], position)

        async def close(self) -> None:
            self.closed = True

    source = Deaf([row(1, name="Ada")])
    async with EventBusFactory.create("memory", history=100) as bus:
        connector = SourceConnector("crm", source, bus)
        await connector.start(["contact"])
        await streaming(connector)
        async with asyncio.timeout(4):
            await connector.disconnect()
    assert source.closed


@pytest.mark.slow
async def test_a_source_that_never_ends_is_left_behind_and_named(caplog: pytest.LogCaptureFixture) -> None:
    end = asyncio.Event()

    class Stuck(ScriptedSource):
        async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
            while not end.is_set():
                try:
                    await end.wait()
                except asyncio.CancelledError:
                    pass
            yield ChangeBatch([], position)

        async def close(self) -> None:
            await end.wait()

    async with EventBusFactory.create("memory", history=100) as bus:
        connector = SourceConnector("crm", Stuck([row(1, name="Ada")]), bus)
        await connector.start(["contact"])
        await streaming(connector)
        try:
            async with asyncio.timeout(19):
                await connector.disconnect()
        finally:
            end.set()
    (left,) = [r.getMessage() for r in caplog.records if "did not end within 5 s" in r.getMessage()]
    assert "contact" in left
    assert "dimesh/cdc/" in left  # the place in the source itself is not visible through an async generator
    assert "closing the source of crm did not finish within 10 s" in caplog.text
    assert "Stuck.close" in caplog.text
