"""The contact of a source with its system: an outage shows while the source still tries, and ends with the next answer."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest

from dimesh import EventBusFactory
from dimesh.cdc import SourceConnector
from dimesh.contact import listener, report_missed, report_reached
from dimesh.spi.cdc import ChangeBatch

from .conftest import eventually
from .scripted import ScriptedSource


class Talking(ScriptedSource):
    """Reports what a test says, in the task that reads each object; it yields nothing meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, asyncio.Queue[Callable[[], object]]] = {}

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        queue = self.calls[object] = asyncio.Queue()
        while True:
            done = (await queue.get())()
            if asyncio.iscoroutine(done):
                await done
            queue.task_done()
            if object == "never":  # makes this function a generator
                yield ChangeBatch([], b"0")

    async def says(self, object: str, call: Callable[[], object]) -> None:
        """Make one report, and wait until it is made."""
        await eventually(lambda: object in self.calls)
        self.calls[object].put_nowait(call)
        await asyncio.wait_for(self.calls[object].join(), 5)


def errors(connector: SourceConnector) -> dict[str, str]:
    return {name: one.error for name, one in connector.report().objects.items()}


async def test_an_outage_shows_while_the_source_still_tries(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dimesh.cdc")
    source = Talking()
    async with EventBusFactory.create("memory") as bus:
        connector = SourceConnector("crm", source, bus)
        await connector.start(["contact", "account"])
        await source.says("account", report_reached)
        await source.says("contact", partial(report_missed, "no answer"))
        # Of this object, and not of the other one, although both are read by one source.
        assert errors(connector) == {"contact": "no answer", "account": ""}
        since = connector.report().objects["contact"].since
        await source.says("contact", partial(report_missed, "still no answer"))
        assert errors(connector)["contact"] == "still no answer"
        assert connector.report().objects["contact"].since == since  # one outage
        await source.says("contact", report_reached)
        assert errors(connector) == {"contact": "", "account": ""}
        last = connector.report().objects["contact"]
        assert last.last_error == "still no answer"
        assert last.last_read >= last.last_error_at > 0
        await connector.disconnect()
    lines = [
        r.getMessage() for r in caplog.records if r.name == "dimesh.cdc" and "captured" in r.getMessage()
    ]
    assert [line.partition(", after")[0] for line in lines] == [
        "source crm, object contact cannot be captured: no answer",
        "source crm, object contact is captured again",
    ]


async def test_what_a_system_says_forges_no_line_and_shows_no_login(caplog: pytest.LogCaptureFixture) -> None:
    source = Talking()
    async with EventBusFactory.create("memory") as bus:
        connector = SourceConnector("crm", source, bus)
        await connector.start(["contact"])
        reason = "GET https://me:hunter2@crm.example\nERROR all is lost\x1b[2J " + "x" * 10_000
        await source.says("contact", partial(report_missed, reason))
        shown = errors(connector)["contact"]
        await connector.disconnect()
    assert "hunter2" not in shown + caplog.text
    assert "\n" not in shown
    assert len(shown) <= 500
    (record,) = [r for r in caplog.records if r.name == "dimesh.cdc" and "captured" in r.getMessage()]
    assert record.getMessage().isprintable()


async def test_tasks_and_threads_of_a_source_report_for_the_object_that_started_them() -> None:
    source = Talking()
    async with EventBusFactory.create("memory") as bus:
        connector = SourceConnector("crm", source, bus)
        await connector.start(["contact", "account"])
        await eventually(lambda: set(source.calls) == {"contact", "account"})

        async def in_a_task() -> None:
            await asyncio.create_task(asyncio.to_thread(report_missed, "no answer"))

        await source.says("contact", in_a_task)
        assert errors(connector) == {"contact": "no answer", "account": ""}
        await connector.disconnect()


async def test_outside_of_capture_a_report_does_nothing() -> None:
    """A source can be used by itself, as ``dimesh cdc check`` does, and by its tests."""
    assert listener.get() is None
    report_reached()
    report_missed("no answer")
    thread = threading.Thread(target=contextvars.Context().run, args=(report_missed, "no answer"))
    thread.start()
    thread.join()
