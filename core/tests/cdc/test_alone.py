"""A connector runs once, wherever: two would overwrite each other's positions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dimesh import CDCConnector, EventBusFactory
from dimesh.cdc import SourceConnector, SqliteCDCStore
from dimesh.errors import ConfigurationError, SourceUnavailableError

from .conftest import published, streaming
from .scripted import ScriptedSource, row

STARTS = """
import asyncio, sys
from dimesh import EventBusFactory, DimeshError
from dimesh.cdc import SourceConnector, SqliteCDCStore
from dimesh.backends.outbox import OutboxOptions, OutboxSource
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
        assert all("crm is followed by another connector" in line for line in refused)
        await connector.stop()
        # Now it may; that its source is not there does not keep the connector from those who come after it.
        (reason,) = other()
        assert "nowhere.db" in reason
        await connector.start(["contact"])
        await connector.disconnect()
    await store.close()


async def test_a_start_that_fails_holds_nothing(tmp_path: Path) -> None:
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


async def test_what_an_account_has_left_is_in_the_status(tmp_path: Path) -> None:
    class Metered(ScriptedSource):
        def account(self) -> dict[str, int]:
            return {"requests_of_a_day": 7}

    async with EventBusFactory.create("memory") as bus:
        assert SourceConnector("crm", Metered(), bus).get_status()["account"] == {"requests_of_a_day": 7}
        assert SourceConnector("crm", ScriptedSource(), bus).get_status()["account"] == {}
