"""Faults of systems and networks: capture must end with the rows of the system, having published every change or the gap."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from capture.history import History
from capture.stages import STAGES, SalesforceStage, StripeStage, ZendeskStage

from dimesh import EventBus, EventBusFactory, SqliteCDCStore, StartAt
from dimesh.cdc import SourceConnector
from dimesh.clock import Handle, SystemClock
from dimesh.plugins import PluginManager
from dimesh.spi.context import PluginContext
from dimesh_contracts.proxy import FaultProxy
from dimesh_contracts.waiting import be_patient, until

HOUR = 3_600.0


class Hurried(SystemClock):
    """A clock that runs faster, so that minutes pass quickly, and whose wall clock can be set."""

    def __init__(self) -> None:
        self.offset = 0.0
        self._factor = 1.0
        self._since, self._passed = time.monotonic(), 0.0
        self._began = time.time()

    @property
    def factor(self) -> float:
        """The number of seconds that pass in one real second; waits that have begun keep theirs."""
        return self._factor

    @factor.setter
    def factor(self, factor: float) -> None:
        self._since, self._passed = time.monotonic(), self.monotonic()
        self._factor = factor

    def monotonic(self) -> float:  # type: ignore[override]
        return self._passed + (time.monotonic() - self._since) * self._factor

    def time(self) -> float:  # type: ignore[override]
        return self._began + self.monotonic() + self.offset

    def call_later(self, delay: float, callback: Callable[[], object]) -> Handle:
        return super().call_later(delay / self._factor, callback)

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay / self._factor)


class Running:
    """A connector in this process, on the sqlite bus, and a consumer."""

    def __init__(self, stage: Any, folder: Path) -> None:
        self.stage = stage
        self.history = History(stage)
        self.clock = Hurried()
        self.rng = random.Random(1)
        self.keys: list[str] = []
        self._folder = folder
        self._numbers = 0

    async def start(self, stack: AsyncExitStack, **options: Any) -> None:
        """Start capturing, with additional options of the source."""
        bus: EventBus = EventBusFactory.create("sqlite", path=str(self._folder / "mesh.db"), clock=self.clock)
        await stack.enter_async_context(bus)
        store = SqliteCDCStore(self._folder / "cdc.db")
        stack.push_async_callback(store.close)
        await bus.subscribe(f"cdc.{self.stage.driver}", self.history, "history", start=StartAt.EARLIEST)
        given = {**self.stage.options, **options}
        self.source: Any = PluginManager().cdc_source(
            self.stage.driver, given, PluginContext(clock=self.clock)
        )
        self.connector = SourceConnector("captured", self.source, bus, store=store)
        stack.push_async_callback(self.connector.disconnect)
        await self.connector.start([self.stage.object])

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.connector.get_status()["objects"][self.stage.object]
        return found

    def change(self, count: int = 1) -> None:
        """Make changes that must all be published."""
        for _ in range(count):
            self._numbers += 1
            name = f"n{self._numbers}"
            sure = self.history.sure
            what = self.rng.random()
            if len(self.keys) < 5 or what < 0.3:
                key = self.stage.put(None, name)
                self.keys.append(key)
            elif what < 0.5:
                key, name = self.keys.pop(self.rng.randrange(len(self.keys))), ""
                self.stage.delete(key)
            else:
                key = self.stage.put(self.rng.choice(self.keys), name)
            if sure:
                self.history.expect(key, name or None)

    async def streaming(self) -> None:
        await until(lambda: self.status()["phase"] == "stream")
        self.history.sure = True

    async def settled(self) -> None:
        """Wait until every change has arrived."""
        try:
            await until(lambda: self.history.complete)
        except TimeoutError:
            pytest.fail(f"{self.history.differences()}; {self.connector.get_status()}")


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    be_patient(30.0)
    async with AsyncExitStack() as found:
        yield found


@pytest.fixture
async def stripe(stack: AsyncExitStack, tmp_path: Path) -> Running:
    return Running(await stack.enter_async_context(StripeStage(tmp_path)), tmp_path)


@pytest.fixture
async def zendesk(stack: AsyncExitStack, tmp_path: Path) -> Running:
    return Running(await stack.enter_async_context(ZendeskStage(tmp_path)), tmp_path)


@pytest.fixture
async def salesforce(stack: AsyncExitStack, tmp_path: Path) -> Running:
    return Running(await stack.enter_async_context(SalesforceStage(tmp_path)), tmp_path)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "rate_limit", "times": 8, "retry_after": 2.0},
        {"kind": "error", "status": 503, "times": 6},
        {"kind": "error", "status": 409, "times": 6},
        {"kind": "hang", "times": 3},
        {"kind": "truncated", "times": 5},
        {"kind": "malformed", "times": 5},
        {"kind": "reset", "times": 5},
        {"kind": "proxy", "status": 404, "times": 5},
        {"kind": "same_cursor", "path": "/api/v2/incremental/tickets", "times": 5},
    ],
    ids=lambda f: f"{f['kind']}{f.get('status', '')}",
)
@pytest.mark.slow
async def test_zendesk_storms(zendesk: Running, stack: AsyncExitStack, fault: dict[str, Any]) -> None:
    """Faults in the snapshot and in the stream, while changes go on, and access tokens expire."""
    sandbox = zendesk.stage.sandbox
    zendesk.change(60)
    await zendesk.start(stack, timeout=0.5, retry_for=5.0)
    sandbox.faults.plan(**fault)
    while zendesk.status()["phase"] != "stream":
        zendesk.change()
        await asyncio.sleep(0.01)  # the number of rounds of changes
    await zendesk.streaming()
    sandbox.faults.plan(**fault)
    sandbox.oauth.expire()
    while sandbox.faults.planned:
        zendesk.change()
        await asyncio.sleep(0.01)  # the number of rounds of changes
    await zendesk.settled()
    assert zendesk.history.gaps == 0


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "rate_limit", "times": 8, "retry_after": 2.0},
        {"kind": "rate_limit", "times": 8},
        {"kind": "rate_limit_400", "times": 8},
        {"kind": "lock_timeout", "times": 6},
        {"kind": "error", "status": 503, "times": 6},
        {"kind": "hang", "times": 3},
        {"kind": "truncated", "times": 5},
        {"kind": "malformed", "times": 5},
        {"kind": "reset", "times": 5},
    ],
    ids=lambda f: f["kind"] + ("-and-when" if "retry_after" in f else ""),
)
@pytest.mark.slow
async def test_stripe_storms(stripe: Running, stack: AsyncExitStack, fault: dict[str, Any]) -> None:
    """Faults in the snapshot and in the stream, while changes go on."""
    stripe.clock.factor = 10.0
    sandbox = stripe.stage.sandbox
    stripe.change(60)
    await stripe.start(stack, timeout=5.0, retry_for=5.0)  # by a clock that is ten times as fast
    sandbox.faults.plan(**fault)
    while stripe.status()["phase"] != "stream":
        stripe.change()
        await asyncio.sleep(0.01)  # the number of rounds of changes
    await stripe.streaming()
    sandbox.faults.plan(**fault)
    while sandbox.faults.planned:
        stripe.change()
        await asyncio.sleep(0.01)  # the number of rounds of changes
    await stripe.settled()
    assert stripe.history.gaps == 0
    if "rate" in fault["kind"]:
        account = stripe.connector.get_status()["account"]
        assert account["requests_refused"] == 2 * fault["times"]


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "concurrent_limit", "times": 8},
        {"kind": "error", "times": 6},
        {"kind": "hang", "times": 3},
        {"kind": "truncated", "times": 5},
        {"kind": "malformed", "times": 5},
        {"kind": "reset", "times": 5},
        {"kind": "unauthorized", "times": 1},
        {"kind": "query_timeout", "times": 3},
    ],
    ids=lambda f: f["kind"],
)
@pytest.mark.slow
async def test_salesforce_storms(salesforce: Running, stack: AsyncExitStack, fault: dict[str, Any]) -> None:
    """Faults in the snapshot, and in the stream when a gap event makes the source fetch rows."""
    salesforce.clock.factor = 10.0
    sandbox = salesforce.stage.sandbox
    salesforce.change(60)
    await salesforce.start(stack, timeout=5.0, retry_for=5.0)  # by a clock that is ten times as fast
    sandbox.faults.plan(path="/services/data/v66.0/query", **fault)
    while salesforce.status()["phase"] != "stream":
        salesforce.change()
        await asyncio.sleep(0.01)  # the number of rounds of changes
    await salesforce.streaming()
    sandbox.faults.plan(path="/services/data/v66.0/", **fault)
    sandbox.org.gap("Account", [salesforce.keys[0]])
    while sandbox.faults.planned:
        salesforce.change()
        await asyncio.sleep(0.01)  # the number of rounds of changes
    await salesforce.settled()


@pytest.mark.parametrize("trouble", ["unavailable", "overload", "cut", "token"])
@pytest.mark.slow
async def test_salesforce_streams_in_trouble(
    salesforce: Running, stack: AsyncExitStack, trouble: str
) -> None:
    salesforce.clock.factor = 20.0
    sandbox = salesforce.stage.sandbox
    salesforce.change(20)
    await salesforce.start(stack)
    await salesforce.streaming()
    for _ in range(5):
        salesforce.change(5)
        if trouble == "unavailable":
            sandbox.pubsub.faults.unavailable = 3
        elif trouble == "overload":
            sandbox.pubsub.faults.code = "service.protection.triggered"
        elif trouble == "token":
            sandbox.expire_tokens()
        sandbox.pubsub.kick()
        salesforce.change(5)
        if trouble == "overload":
            await until(lambda: salesforce.status()["errors"] > 0)
            sandbox.pubsub.faults.code = None
        await salesforce.settled()
    assert salesforce.history.gaps == 0


@pytest.mark.slow
async def test_a_connection_that_is_half_open(stripe: Running, stack: AsyncExitStack) -> None:
    """The network drops everything without any error."""
    proxy = await stack.enter_async_context(FaultProxy(stripe.stage.sandbox.port))
    stripe.change(60)
    await stripe.start(stack, url=f"http://127.0.0.1:{proxy.port}", timeout=0.4)
    await stripe.streaming()
    for _ in range(2):
        proxy.cut()
        stripe.change(10)
        before = proxy.connections
        await until(lambda before=before: proxy.connections > before + 1)  # its retries fail
        proxy.heal()
        await stripe.settled()
    assert stripe.history.gaps == 0


@pytest.mark.slow
async def test_connections_of_salesforce_that_are_half_open(
    salesforce: Running, stack: AsyncExitStack
) -> None:
    sandbox = salesforce.stage.sandbox
    rest = await stack.enter_async_context(FaultProxy(int(sandbox.url.rpartition(":")[2])))
    stream = await stack.enter_async_context(FaultProxy(int(sandbox.grpc_target.rpartition(":")[2])))
    sandbox.my_domain = f"http://127.0.0.1:{rest.port}"
    salesforce.change(60)
    await salesforce.start(
        stack, instance_url=sandbox.my_domain, pubsub=f"127.0.0.1:{stream.port}", timeout=0.4,
        silence=0.5,
    )  # fmt: skip
    await salesforce.streaming()
    for _ in range(2):
        rest.cut()
        stream.cut()
        salesforce.change(10)
        before = salesforce.source.account()["streams_reopened"]
        await until(lambda before=before: salesforce.source.account()["streams_reopened"] > before)
        rest.heal()
        stream.heal()
        await salesforce.settled()
    assert salesforce.history.gaps == 0


@pytest.mark.parametrize("how", ["wrong bytes", "no schema", "nothing"])
@pytest.mark.slow
async def test_events_that_cannot_be_read(salesforce: Running, stack: AsyncExitStack, how: str) -> None:
    """An unreadable event is not skipped silently and does not stop the stream: the object is read again."""
    salesforce.clock.factor = 20.0
    org = salesforce.stage.sandbox.org
    salesforce.change(30)
    await salesforce.start(stack)
    await salesforce.streaming()
    salesforce.change(5)
    await salesforce.settled()
    hidden, gone = salesforce.keys[:2]
    org.change_silently("Account", hidden, {"Name": "hidden"})
    org.delete_silently("Account", gone)
    del salesforce.keys[:2]
    if how == "wrong bytes":
        org.raw("Account", org.events[-1].payload[:-7] + b"\xff\xff\xff\xff\xff\xff\xff")
    elif how == "no schema":
        org.raw("Account", org.events[-1].payload, schema_id="no-such-schema")
    else:
        org.raw("Account", b"")
    await until(lambda: salesforce.history.repaired == 1)
    assert salesforce.history.gaps == 1
    salesforce.change(10)
    await salesforce.settled()
    assert salesforce.history.rows[hidden] == "hidden"
    assert gone not in salesforce.history.rows


@pytest.mark.parametrize("system", list(STAGES))
@pytest.mark.slow
async def test_the_local_clock_jumps(stack: AsyncExitStack, tmp_path: Path, system: str) -> None:
    """A jump of more than a day, forwards or back, causes no false gap, no negative lag and no stop."""
    running = Running(await stack.enter_async_context(STAGES[system](tmp_path)), tmp_path)
    running.change(30)
    await running.start(stack)
    await running.streaming()
    for jump in (30 * HOUR, -60 * HOUR, 30 * HOUR):
        running.clock.offset += jump
        running.change(20)
        await running.settled()
    assert running.history.gaps == 0


@pytest.mark.slow
async def test_ten_minutes_of_silence(salesforce: Running, stack: AsyncExitStack) -> None:
    """A stream that hangs without an error is recognised by its silence, on the injected clock."""
    salesforce.stage.sandbox.pubsub.keep_alive = 0.02
    salesforce.change(10)
    await salesforce.start(stack, silence=600.0)
    await salesforce.streaming()
    salesforce.change(5)
    await salesforce.settled()
    faults = salesforce.stage.sandbox.pubsub.faults
    faults.silent = True
    salesforce.stage.sandbox.pubsub.wake()
    await until(lambda: salesforce.stage.sandbox.pubsub.streams > 0)
    salesforce.clock.factor = 600.0  # from now on, a second counts as ten minutes
    salesforce.stage.sandbox.pubsub.kick()
    salesforce.change(5)
    await until(lambda: salesforce.source.account()["streams_reopened"] > 0)
    faults.silent = False
    await salesforce.settled()
    assert salesforce.history.gaps == 0


@pytest.mark.parametrize("most", [200, pytest.param(20_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(900)
async def test_more_changes_in_one_transaction_than_are_published(
    salesforce: Running, stack: AsyncExitStack, most: int
) -> None:
    be_patient(200.0 if most == 200 else 600.0)
    org = salesforce.stage.sandbox.org
    org.max_transaction = most
    org.seed("Account", most + 50)
    ids = [row["Id"] for row in org.rows("Account")]
    await salesforce.start(stack, page=2_000)
    await salesforce.streaming()
    with org.transaction():
        for n, id in enumerate(ids[: most + 20]):
            org.update("Account", id, {"Name": f"new {n}"})
        for id in ids[most + 20 : most + 40]:
            org.delete("Account", id)
    await until(lambda: salesforce.history.repaired == 1)
    for n, id in enumerate(ids[:most]):
        salesforce.history.expect(id, f"new {n}")
    await salesforce.settled()
    assert salesforce.history.gaps == 1


@pytest.mark.slow
async def test_an_org_that_is_migrated(salesforce: Running, stack: AsyncExitStack) -> None:
    """Its replay ids become invalid at once; changes made meanwhile, deletes included, are found."""
    sandbox = salesforce.stage.sandbox
    salesforce.change(40)
    await salesforce.start(stack)
    await salesforce.streaming()
    for n in range(2):
        salesforce.change(10)
        await salesforce.settled()
        sandbox.org.change_silently("Account", salesforce.keys[0], {"Name": f"hidden {n}"})
        sandbox.org.delete_silently("Account", salesforce.keys.pop())
        sandbox.org.migrate()
        sandbox.pubsub.kick()
        await until(lambda n=n: salesforce.history.repaired == n + 1)
        await salesforce.settled()
    assert salesforce.history.gaps == 2


@pytest.mark.slow
async def test_an_allocation_that_is_used_up(salesforce: Running, stack: AsyncExitStack) -> None:
    """Nothing is delivered until the allocation is raised, Salesforce is not hammered, and then nothing is missing."""
    org = salesforce.stage.sandbox.org
    salesforce.change(20)
    await salesforce.start(stack, silence=3_600.0, timeout=600.0)
    await salesforce.streaming()
    salesforce.clock.factor = (
        3_600.0  # after the requests of the start, whose time-outs are on this clock, too
    )
    org.allocation = 3
    salesforce.change(20)
    await until(lambda: salesforce.status()["errors"] > 0)
    assert "24 hours" in salesforce.status()["last_error"]
    began = salesforce.clock.monotonic()
    errors = salesforce.status()["errors"]
    await until(lambda: salesforce.status()["errors"] > errors + 2)
    passed = salesforce.clock.monotonic() - began
    assert passed / (salesforce.status()["errors"] - errors) > 300, (
        "the source retried more often than every five minutes"
    )
    org.allocation = None
    await salesforce.settled()
    assert salesforce.history.gaps == 0


@pytest.mark.slow
async def test_hostile_webhooks(stripe: Running, stack: AsyncExitStack) -> None:
    """Forged, duplicated, shuffled, replayed and oversized webhooks change nothing: only genuine ones count, and as hints."""
    import uvicorn

    sandbox = stripe.stage.sandbox
    stripe.change(10)
    await stripe.start(stack, poll=3_600.0, reread=3_600.0)
    await stripe.streaming()
    hints: list[str] = []

    def hint(kind: str) -> None:
        hints.append(kind)
        stripe.source.hint(kind)

    client = await stack.enter_async_context(
        httpx.AsyncClient(headers={"authorization": f"Bearer {stripe.stage.options['api_key']}"})
    )
    made = sandbox.account.new_id("whsec")
    receiver: Any = PluginManager().cdc_source("stripe", {**stripe.stage.options, "webhook_secrets": [made]})
    server = uvicorn.Server(
        uvicorn.Config(receiver.webhooks(hint, "/hooks"), port=0, log_config=None, lifespan="off", ws="none")
    )
    serving = asyncio.create_task(server._serve())
    await until(lambda: server.started)

    async def end() -> None:
        server.should_exit = server.force_exit = True
        await serving

    stack.push_async_callback(end)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/hooks"
    answer = await client.post(
        f"{sandbox.url}/v1/webhook_endpoints", data={"url": url, "enabled_events[]": "*"}
    )
    sandbox.endpoints[answer.json()["id"]].secrets = [made]
    sandbox.webhooks.copies, sandbox.webhooks.shuffle = 3, True
    for n in range(10):
        stripe.change(3)
        forged = b'{"id": "evt_forged%d", "type": "customer.deleted"}' % n
        for signature in ("", "t=1,v1=00", f"t={int(time.time())},v1={'0' * 64}"):
            refused = await client.post(url, content=forged, headers={"stripe-signature": signature})
            assert refused.status_code == 400
        large = await client.post(url, content=b"x" * 2_000_000)
        assert large.status_code == 413
        await stripe.settled()
    assert stripe.history.gaps == 0
    assert set(hints) <= {"customer.created", "customer.updated", "customer.deleted"}
