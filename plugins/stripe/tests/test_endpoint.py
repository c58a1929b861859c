"""A webhook endpoint that Stripe has disabled: it is said once, and nothing is lost."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from dimesh import Event, EventBus, EventBusFactory, SourceConnector, StartAt
from dimesh.cdc import SqliteCDCStore
from dimesh.errors import ConfigurationError
from dimesh.spi.cdc import Change, Gap
from dimesh_contracts.waiting import deadline, until
from dimesh_stripe.sandbox import StripeSandbox
from dimesh_stripe.sandbox.server import KEY
from dimesh_stripe.source import StripeSource

Make = Callable[..., StripeSource]


class Endpoint:
    """One of the sandbox's, that is disabled and enabled over HTTP."""

    def __init__(self, sandbox: StripeSandbox, http: httpx.AsyncClient, id: str) -> None:
        self.id = id
        self._sandbox = sandbox
        self._http = http

    async def set(self, **fields: str) -> None:
        (await self._http.post(f"/v1/webhook_endpoints/{self.id}", data=fields)).raise_for_status()

    async def delete(self) -> None:
        (await self._http.delete(f"/v1/webhook_endpoints/{self.id}")).raise_for_status()

    @property
    def looks(self) -> int:
        """How often it was asked for."""
        return self._sandbox.requests.count(("GET", f"/v1/webhook_endpoints/{self.id}"))

    async def looked_at(self, times: int = 2) -> None:
        """Wait until it was asked for so often from now on: twice, since the first may be on its way."""
        last = self.looks
        await until(lambda: self.looks >= last + times)


@pytest.fixture
async def endpoint(sandbox: StripeSandbox) -> AsyncIterator[Endpoint]:
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=sandbox.url, headers=headers) as http:
        data = {"url": "http://127.0.0.1:9/", "enabled_events[]": "*"}
        made = (await http.post("/v1/webhook_endpoints", data=data)).json()
        yield Endpoint(sandbox, http, made["id"])


class Watcher:
    """What there is on the topic."""

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
    """Makes connectors over one store."""
    store = SqliteCDCStore(tmp_path / "cdc.db")
    made: list[SourceConnector] = []

    def make(**options: Any) -> SourceConnector:
        made.append(SourceConnector("billing", new_source(**options), bus, "Growth Engine", store=store))
        return made[-1]

    yield make
    for connector in made:
        await connector.disconnect()
    await store.close()


async def test_it_is_said_once_for_each_time_and_nothing_is_lost(
    sandbox: StripeSandbox, endpoint: Endpoint, watcher: Watcher, connect: Callable[..., Any]
) -> None:
    """Nothing wakes the source, and it would look by itself in an hour: what changed comes with the look at the endpoint."""
    connector = connect(webhook_endpoint=endpoint.id, webhook_look=0.05, poll=3_600.0, reread=3_600.0)
    await connector.start(["customer"])
    await endpoint.looked_at()
    assert watcher.notices == []
    expected: list[str] = []
    for n in (1, 2):
        enabled = sandbox.account.now()
        await endpoint.set(disabled="true")
        for name in (f"prompt {n}", f"late {n}"):
            sandbox.account.late = 0.3 if name.startswith("late") else 0.0
            sandbox.account.create("customer", {"name": name})
            expected.append(name)
        await until(lambda n=n: len(watcher.notices) == 2 * n)
        gap, repaired = (event.payload for event in watcher.notices[-2:])
        assert f"{endpoint.id} is disabled: changes come by polling" in gap["cause"]
        assert (gap["object"], gap["resnapshot"]) == ("customer", False)
        assert enabled - 5.0 <= datetime.fromisoformat(gap["since"]).timestamp()
        assert gap["since"] < gap["until"]
        assert (repaired["cause"], repaired["rows"], repaired["deleted"]) == (gap["cause"], 0, 0)
        await until(lambda n=n: f"prompt {n}" in watcher.names)
        await endpoint.looked_at(5)
        await endpoint.set(disabled="false")
        await endpoint.looked_at()
    assert watcher.kinds == ["cdc.gap", "cdc.repaired"] * 2
    await connector.disconnect()
    connector = connect()
    await connector.start(["customer"])
    await until(lambda: {n for n in watcher.names if n in expected} == set(expected))


async def test_a_restart_does_not_say_it_again(
    sandbox: StripeSandbox, endpoint: Endpoint, watcher: Watcher, connect: Callable[..., Any]
) -> None:
    await endpoint.set(disabled="true")
    for _ in range(2):
        connector = connect(webhook_endpoint=endpoint.id, webhook_look=0.05)
        await connector.start(["customer"])
        await until(lambda: watcher.kinds == ["cdc.gap", "cdc.repaired"])
        await endpoint.looked_at()
        await connector.disconnect()
    # Not even when the first look after it brings no answer.
    sandbox.faults.plan("error", path="/v1/webhook_endpoints", times=2)
    connector = connect(webhook_endpoint=endpoint.id, webhook_look=0.05)
    await connector.start(["customer"])
    await endpoint.looked_at(5)
    assert watcher.kinds == ["cdc.gap", "cdc.repaired"]
    # That it was enabled in between is known, too.
    await endpoint.set(disabled="false")
    await endpoint.looked_at()
    await endpoint.set(disabled="true")
    await until(lambda: len(watcher.notices) == 4)


async def test_one_question_is_for_all_objects(
    sandbox: StripeSandbox, endpoint: Endpoint, watcher: Watcher, connect: Callable[..., Any]
) -> None:
    await endpoint.set(disabled="true")
    connector = connect(webhook_endpoint=endpoint.id)
    await connector.start(["customer", "product", "price", "balance_transaction"])
    await until(lambda: len(watcher.notices) == 6)
    sandbox.account.create("product", {"name": "on"})
    await until(lambda: watcher.names == ["on"])
    told = sorted(e.payload["object"] for e in watcher.notices if e.event_type.value == "cdc.gap")
    assert told == ["customer", "price", "product"]  # what there are no events of, no webhook tells of
    assert endpoint.looks == 1


async def test_an_endpoint_that_is_gone(
    endpoint: Endpoint, watcher: Watcher, connect: Callable[..., Any]
) -> None:
    connector = connect(webhook_endpoint=endpoint.id, webhook_look=0.05)
    await connector.start(["customer"])
    await endpoint.looked_at()
    await endpoint.delete()
    await until(lambda: watcher.kinds == ["cdc.gap", "cdc.repaired"])
    assert f"{endpoint.id} is not there" in watcher.notices[0].payload["cause"]


async def test_a_key_that_may_not_read_endpoints(
    sandbox: StripeSandbox,
    endpoint: Endpoint,
    watcher: Watcher,
    connect: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The stream goes on; what to do is in the log, once."""
    sandbox.keys[KEY] = frozenset({"customer"})
    with caplog.at_level(logging.WARNING, "dimesh.cdc.stripe"):
        connector = connect(webhook_endpoint=endpoint.id, webhook_look=0.05)
        await connector.start(["customer"])
        await endpoint.looked_at(3)
        sandbox.account.create("customer", {"name": "Ada"})
        await until(lambda: watcher.names == ["Ada"])
    assert watcher.notices == []
    assert caplog.text.count("Webhook Endpoints: Read") == 1
    (problem,) = (await connector.source.check()).problems
    assert "Webhook Endpoints: Read" in problem


async def test_one_that_was_never_seen_enabled(
    sandbox: StripeSandbox, endpoint: Endpoint, new_source: Make
) -> None:
    """When it was disabled is not known; what is in the feed comes before it is said."""
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


async def test_check_names_it(endpoint: Endpoint, new_source: Make) -> None:
    source = new_source(webhook_endpoint=endpoint.id)
    await source.open()
    assert (await source.check()).problems == []
    await endpoint.set(disabled="true")
    (problem,) = (await source.check()).problems
    assert "is disabled" in problem
    await endpoint.delete()
    (problem,) = (await source.check()).problems
    assert "is not there" in problem
    await source.close()
    with pytest.raises(ConfigurationError, match="we_"):
        new_source(webhook_endpoint="https://example.com")
