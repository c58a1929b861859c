"""A webhook endpoint that Stripe has disabled: the outage is reported once, and nothing is lost."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from dimesh import Event, EventBus, EventBusFactory, SourceConnector, SqliteCDCStore, StartAt
from dimesh.errors import ConfigurationError
from dimesh.spi.cdc import Change, Gap
from dimesh_contracts.waiting import deadline, until
from dimesh_stripe.sandbox import StripeSandbox
from dimesh_stripe.sandbox.server import KEY
from dimesh_stripe.source import StripeSource

Make = Callable[..., StripeSource]


class Endpoint:
    """A webhook endpoint of the sandbox, which is disabled and enabled over HTTP."""

    def __init__(self, sandbox: StripeSandbox, http: httpx.AsyncClient, id: str) -> None:
        self.id = id
        self._sandbox = sandbox
        self._http = http

    async def set(self, **fields: str) -> None:
        (await self._http.post(f"/v1/webhook_endpoints/{self.id}", data=fields)).raise_for_status()

    async def delete(self) -> None:
        (await self._http.delete(f"/v1/webhook_endpoints/{self.id}")).raise_for_status()

    @property
    def checks(self) -> int:
        """The number of requests for the endpoint."""
        return self._sandbox.requests.count(("GET", f"/v1/webhook_endpoints/{self.id}"))

    async def wait_for_checks(self, times: int = 2) -> None:
        """Wait until the endpoint has been checked ``times`` times from now on; the first check may be in flight already."""
        last = self.checks
        await until(lambda: self.checks >= last + times)


@pytest.fixture
async def endpoint(sandbox: StripeSandbox) -> AsyncIterator[Endpoint]:
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=sandbox.url, headers=headers) as http:
        data = {"url": "http://127.0.0.1:9/", "enabled_events[]": "*"}
        made = (await http.post("/v1/webhook_endpoints", data=data)).json()
        yield Endpoint(sandbox, http, made["id"])


class Watcher:
    """Collects the events of the topic."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.notices: list[Event] = []

    async def __call__(self, event: Event) -> None:
        if event.event_type.value in ("cdc.gap", "cdc.repaired"):
            self.notices.append(event)
        else:
            self.names.append(event.payload["after"]["name"])

    @property
    def kinds(self) -> list[str]:
        return [event.event_type.value for event in self.notices]


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[EventBus]:
    async with EventBusFactory.create("sqlite", path=str(tmp_path / "mesh.db")) as made:
        yield made


@pytest.fixture
async def watcher(bus: EventBus) -> Watcher:
    made = Watcher()
    await bus.subscribe("cdc.stripe", made, "watcher", start=StartAt.EARLIEST)
    return made


@pytest.fixture
async def connect(bus: EventBus, new_source: Make, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Return a factory of connectors with one store."""
    store = SqliteCDCStore(tmp_path / "cdc.db")
    made: list[SourceConnector] = []

    def make(**options: Any) -> SourceConnector:
        made.append(SourceConnector("billing", new_source(**options), bus, "Growth Engine", store=store))
        return made[-1]

    yield make
    for connector in made:
        await connector.disconnect()
    await store.close()


@pytest.mark.slow
async def test_each_outage_is_reported_once_and_nothing_is_lost(
    sandbox: StripeSandbox, endpoint: Endpoint, watcher: Watcher, connect: Callable[..., Any]
) -> None:
    """Nothing wakes the source, and its next poll is in an hour: the check of the endpoint brings the changes."""
    connector = connect(webhook_endpoint=endpoint.id, webhook_look=0.05, poll=3_600.0, reread=3_600.0)
    await connector.start(["customer"])
    await endpoint.wait_for_checks()
    assert watcher.notices == []
    expected: list[str] = []
    for n in (1, 2):
        enabled = sandbox.account.now()
        await endpoint.set(disabled="true")
        for name in (f"prompt {n}", f"late {n}"):
            sandbox.account.late = 0.3 if name.startswith("late") else 0.0
            sandbox.account.create("customer", {"name": name})
            expected.append(name)
        await until(lambda n=n: len(watcher.notices) == n)
        gap = watcher.notices[-1].payload
        assert f"{endpoint.id} is disabled: changes arrive by polling" in gap["cause"]
        assert (gap["object"], gap["resnapshot"]) == ("customer", False)
        assert enabled - 5.0 <= datetime.fromisoformat(gap["since"]).timestamp()
        assert gap["since"] < gap["until"]
        await until(lambda n=n: f"prompt {n}" in watcher.names)
        await endpoint.wait_for_checks(5)
        await endpoint.set(disabled="false")
        await endpoint.wait_for_checks()
    assert watcher.kinds == ["cdc.gap"] * 2  # nothing is missing, so nothing is repaired
    await connector.disconnect()
    connector = connect()
    await connector.start(["customer"])
    await until(lambda: {n for n in watcher.names if n in expected} == set(expected))


@pytest.mark.slow
async def test_a_restart_does_not_report_it_again(
    sandbox: StripeSandbox, endpoint: Endpoint, watcher: Watcher, connect: Callable[..., Any]
) -> None:
    await endpoint.set(disabled="true")
    for _ in range(2):
        connector = connect(webhook_endpoint=endpoint.id, webhook_look=0.05)
        await connector.start(["customer"])
        await until(lambda: watcher.kinds == ["cdc.gap"])
        await endpoint.wait_for_checks()
        await connector.disconnect()
    # Not even when the first check after the restart gets no response.
    sandbox.faults.plan("error", path="/v1/webhook_endpoints", times=2)
    connector = connect(webhook_endpoint=endpoint.id, webhook_look=0.05)
    await connector.start(["customer"])
    await endpoint.wait_for_checks(5)
    assert watcher.kinds == ["cdc.gap"]
    # It is also known that the endpoint was enabled in between.
    await endpoint.set(disabled="false")
    await endpoint.wait_for_checks()
    await endpoint.set(disabled="true")
    await until(lambda: len(watcher.notices) == 2)


async def test_one_check_serves_all_objects(
    sandbox: StripeSandbox, endpoint: Endpoint, watcher: Watcher, connect: Callable[..., Any]
) -> None:
    await endpoint.set(disabled="true")
    connector = connect(webhook_endpoint=endpoint.id)
    await connector.start(["customer", "product", "price", "balance_transaction"])
    await until(lambda: len(watcher.notices) == 3)
    sandbox.account.create("product", {"name": "on"})
    await until(lambda: watcher.names == ["on"])
    told = sorted(e.payload["object"] for e in watcher.notices if e.event_type.value == "cdc.gap")
    assert told == ["customer", "price", "product"]  # objects without events have no webhooks
    assert endpoint.checks == 1


async def test_an_endpoint_that_is_gone(
    endpoint: Endpoint, watcher: Watcher, connect: Callable[..., Any]
) -> None:
    connector = connect(webhook_endpoint=endpoint.id, webhook_look=0.05)
    await connector.start(["customer"])
    await endpoint.wait_for_checks()
    await endpoint.delete()
    await until(lambda: watcher.kinds == ["cdc.gap"])
    assert f"{endpoint.id} does not exist" in watcher.notices[0].payload["cause"]


@pytest.mark.slow
async def test_a_key_that_may_not_read_endpoints(
    sandbox: StripeSandbox,
    endpoint: Endpoint,
    watcher: Watcher,
    connect: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The stream continues; the log reports the remedy once."""
    sandbox.keys[KEY] = frozenset({"customer"})
    with caplog.at_level(logging.WARNING, "dimesh.cdc.stripe"):
        connector = connect(webhook_endpoint=endpoint.id, webhook_look=0.05)
        await connector.start(["customer"])
        await endpoint.wait_for_checks(3)
        sandbox.account.create("customer", {"name": "Ada"})
        await until(lambda: watcher.names == ["Ada"])
    assert watcher.notices == []
    assert caplog.text.count("Webhook Endpoints: Read") == 1
    (problem,) = (await connector.source.check()).problems
    assert "Webhook Endpoints: Read" in problem


async def test_an_endpoint_that_was_never_seen_enabled(
    sandbox: StripeSandbox, endpoint: Endpoint, new_source: Make
) -> None:
    """When it was disabled is unknown; changes in the feed are published before the gap."""
    await endpoint.set(disabled="true")
    source = new_source(webhook_endpoint=endpoint.id)
    await source.open()
    position = await source.position("customer")
    sandbox.account.create("customer", {"name": "Ada"})
    items: list[Any] = []
    async with deadline(), aclosing(cast(Any, source.stream("customer", position))) as stream:
        while len(items) < 2:
            items += (await anext(stream)).items
    change, gap = items
    assert isinstance(change, Change)
    assert isinstance(gap, Gap)
    assert (gap.since, gap.resnapshot, list(gap.repair)) == (None, False, [])
    await source.close()


@pytest.mark.slow
async def test_check_reports_the_endpoint(endpoint: Endpoint, new_source: Make) -> None:
    source = new_source(webhook_endpoint=endpoint.id)
    await source.open()
    assert (await source.check()).problems == []
    await endpoint.set(disabled="true")
    (problem,) = (await source.check()).problems
    assert "is disabled" in problem
    await endpoint.delete()
    (problem,) = (await source.check()).problems
    assert "does not exist" in problem
    await source.close()
    with pytest.raises(ConfigurationError, match="we_"):
        new_source(webhook_endpoint="https://example.com")
