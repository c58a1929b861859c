"""From the sandbox to the bus: snapshot, live changes, gaps that are reported and repaired."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from dimesh import CDCManager, Event, EventBus, EventBusFactory, SqliteCDCStore, StartAt, StripeCDCConnector
from dimesh.errors import ConfigurationError
from dimesh_contracts.waiting import eventually, until
from dimesh_stripe.sandbox import StripeSandbox
from dimesh_stripe.sandbox.server import KEY

DAY = 86_400


@pytest.fixture(params=["sqlite", pytest.param("memory", marks=pytest.mark.slow)])
async def bus(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EventBus]:
    options = {"path": str(tmp_path / "mesh.db")} if request.param == "sqlite" else {"history": 100_000}
    async with EventBusFactory.create(request.param, **options) as made:
        yield made


@pytest.fixture
async def connect(
    sandbox: StripeSandbox, bus: EventBus, tmp_path: Path
) -> AsyncIterator[Callable[..., StripeCDCConnector]]:
    """Return a factory of connectors with one store."""
    store = SqliteCDCStore(tmp_path / "cdc.db")

    def make(**options: Any) -> StripeCDCConnector:
        given = {"url": sandbox.url, "poll": 0.05, "reread": 0.3, "rate": 1_000, "store": store, **options}
        return StripeCDCConnector("stripe_test", bus, "Growth Engine", KEY, **given)

    yield make
    await store.close()


class Mirror:
    """A consumer's copy of the source."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.notices: list[Event] = []
        self.seen: set[str] = set()

    async def __call__(self, event: Event) -> None:
        self.seen.add(event.event_id)
        kind = event.event_type.value
        if kind in ("cdc.gap", "cdc.repaired"):
            self.notices.append(event)
            return
        key = event.payload["primary_key"]["id"]
        if kind == "cdc.delete":
            self.rows.pop(key, None)
        else:
            self.rows[key] = event.payload["after"]["name"]


def truth(sandbox: StripeSandbox) -> dict[str, str]:
    return {row["id"]: row["name"] for row in sandbox.account.rows("customer")}


async def test_a_live_feed(
    sandbox: StripeSandbox, bus: EventBus, connect: Callable[..., StripeCDCConnector]
) -> None:
    account = sandbox.account
    for n in range(250):
        account.create("customer", {"name": f"c{n}"})
    mirror = Mirror()
    await bus.subscribe("cdc.stripe", mirror, "mirror", start=StartAt.EARLIEST)
    manager = CDCManager(bus)
    manager.register_connector(connect())
    await manager.start_connector("stripe_test", ["customer", "product"])
    await until(lambda: len(mirror.rows) == 250)
    ids = [row["id"] for row in account.rows("customer")]
    for n, id in enumerate(ids[:50]):
        if n % 5 == 0:
            account.delete("customer", id)
        else:
            account.update("customer", id, {"name": f"changed{n}"})
    account.create("customer", {"name": "new"})
    await until(lambda: mirror.rows == truth(sandbox))
    status = manager.get_status()["stripe_test"]
    assert (status["status"], status["error_count"]) == ("connected", 0)
    assert set(status["offsets"]) == {"customer", "product"}
    await manager.stop_all()


@pytest.mark.slow
async def test_a_position_that_aged_out_is_a_gap_and_deletes_are_found(
    sandbox: StripeSandbox, bus: EventBus, connect: Callable[..., StripeCDCConnector]
) -> None:
    account = sandbox.account
    rows = [account.create("customer", {"name": f"c{n}"}) for n in range(120)]
    mirror = Mirror()
    await bus.subscribe("cdc.stripe", mirror, "mirror", start=StartAt.EARLIEST)
    connector = connect()
    await connector.start(["customer"])
    await until(lambda: len(mirror.rows) == 120)
    account.create("customer", {"name": "streamed"})
    await until(lambda: len(mirror.rows) == 121)
    await connector.stop()
    for n, row in enumerate(rows[:60]):
        if n % 2:
            account.delete("customer", row["id"])
        else:
            account.update("customer", row["id"], {"name": f"changed{n}"})
    account.skew = 31 * DAY  # the changes made meanwhile have aged out, and so has the position
    account.create("customer", {"name": "after"})
    await connector.start(["customer"])
    await until(lambda: mirror.rows == truth(sandbox))
    await until(lambda: len(mirror.notices) == 2)
    gap, repaired = sorted(mirror.notices, key=lambda e: e.event_type.value)
    assert "30 days" in gap.payload["cause"] or "aged out" in gap.payload["cause"]
    assert repaired.payload["deleted"] == 30
    assert connector.get_status()["objects"]["customer"]["gaps"] == 1
    # The stream continues from there.
    account.create("customer", {"name": "and on"})
    await until(lambda: mirror.rows == truth(sandbox))
    await connector.disconnect()


async def test_a_key_that_may_not_read_an_object_degrades_that_object_only(
    sandbox: StripeSandbox, bus: EventBus, connect: Callable[..., StripeCDCConnector]
) -> None:
    sandbox.keys[KEY] = frozenset({"product"})
    connector = connect()
    await connector.start(["customer", "product"])
    mirror = Mirror()
    await bus.subscribe("cdc.stripe", mirror, "mirror", start=StartAt.EARLIEST)

    async def degraded() -> bool:
        objects = connector.get_status()["objects"]
        return objects["customer"]["phase"] == "failed" and objects["product"]["phase"] == "stream"

    await eventually(degraded)
    assert "rak_customer_read" in connector.get_status()["objects"]["customer"]["last_error"]
    sandbox.account.create("product", {"name": "still"})
    await until(lambda: list(mirror.rows.values()) == ["still"])
    await connector.disconnect()


@pytest.mark.slow
async def test_storms_lose_nothing(
    sandbox: StripeSandbox, bus: EventBus, connect: Callable[..., StripeCDCConnector]
) -> None:
    account = sandbox.account
    mirror = Mirror()
    await bus.subscribe("cdc.stripe", mirror, "mirror", start=StartAt.EARLIEST)
    for n in range(150):
        account.create("customer", {"name": f"c{n}"})
    connector = connect(page=20, timeout=1.0)
    await connector.start(["customer"])
    await until(lambda: len(mirror.rows) == 150)
    kinds = ("rate_limit", "error", "truncated", "reset", "malformed", "conflict", "hang", "lock_timeout")
    for n, kind in enumerate(kinds):
        sandbox.faults.plan(kind, times=2)  # type: ignore[arg-type]
        account.late = 0.4 if n % 2 else 0.0
        for m in range(10):
            account.create("customer", {"name": f"{kind}{m}"})
        account.update("customer", account.rows("customer")[-1]["id"], {"name": f"after {kind}"})
        await until(lambda: not sandbox.faults.planned)
        await until(lambda: len(mirror.rows) == len(truth(sandbox)))
    await until(lambda: mirror.rows == truth(sandbox), 2)
    await connector.disconnect()


def test_options_are_checked() -> None:
    bus = EventBusFactory.create("memory")
    with pytest.raises(ConfigurationError, match="api_key"):
        StripeCDCConnector("s", bus, "P", api_key="short")
    with pytest.raises(ConfigurationError, match="no option 'pol'"):
        StripeCDCConnector("s", bus, "P", api_key=KEY, pol=3)
    made = StripeCDCConnector("s", bus, "P", api_key="sk_live_very_secret_key")
    assert "very_secret" not in repr(made._stripe.options)
