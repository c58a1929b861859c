"""The part of `dimesh demo` about Stripe: a live feed from the sandbox over HTTP, an agent that reacts to it, a gap."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from dimesh import (
    CDCManager,
    Event,
    EventBusFactory,
    EventMetadata,
    SqliteCDCStore,
    StartAt,
    Topics,
)
from dimesh_stripe.connector import StripeCDCConnector
from dimesh_stripe.sandbox import StripeSandbox
from dimesh_stripe.sandbox.server import KEY

TITLE: Final = "A live feed from Stripe, and a gap that is repaired"
_MONTH: Final = 31 * 86_400


async def play(stage: Any) -> None:
    """Show how customers are created and changed and an agent welcomes new ones; then a month is missed.

    Args:
        stage: the output of the demo: ``step``, ``table``, ``try_next`` and the path ``database``.
    """
    store = SqliteCDCStore(f"{stage.folder}/cdc.db", last_state=True)
    async with (
        StripeSandbox() as stripe,
        EventBusFactory.create("sqlite", path=stage.database) as bus,
    ):
        await _play(stage, stripe, bus, store)
    await store.close()


async def _play(stage: Any, stripe: StripeSandbox, bus: Any, store: SqliteCDCStore) -> None:
    account = stripe.account
    first = [account.create("customer", {"name": name}) for name in ("Ada", "Grace", "Edsger")]
    seen: list[Event] = []
    at: dict[str, float] = {}

    async def agent(event: Event) -> None:
        seen.append(event)
        payload = event.payload
        if payload.get("operation") == "insert":
            name = payload["after"]["name"]
            at[name] = time.perf_counter()
            me = EventMetadata(source_pillar="Customer Success", source_agent="welcome_agent")
            await bus.publish(Topics.CUSTOMER, Event("customer.welcomed", me, {"name": name}))

    await bus.subscribe("cdc.stripe", agent, "welcome-agent", start=StartAt.EARLIEST)

    async def connect() -> CDCManager:
        connector = StripeCDCConnector(
            "billing", bus, "Growth Engine", KEY, url=stripe.url, poll=0.05, reread=0.2, store=store, rate=100.0,
            ledger="",
        )  # fmt: skip
        manager = CDCManager(bus)
        manager.register_connector(connector)
        await manager.start_connector("billing", ["customer"])
        return manager

    def kinds() -> list[str]:
        return [event.event_type.value for event in seen]

    manager = await connect()
    await _until(lambda: len(seen) == 3)
    stage.step(
        f"a snapshot brought the three existing customers, over HTTP from {stripe.url}",
        kinds() == ["cdc.snapshot"] * 3,
    )
    began = time.perf_counter()
    account.create("customer", {"name": "Barbara"})
    await _until(lambda: "Barbara" in at)
    took = f"{(at['Barbara'] - began) * 1000:.0f} ms, polled every 50 ms" if "Barbara" in at else ""
    stage.step("a customer was created, and an agent welcomed her", "Barbara" in at, took)
    account.update("customer", first[0]["id"], {"name": "Ada Lovelace"})
    await _until(lambda: len(seen) == 5)
    last = seen[-1].payload
    stage.step(
        "an update has the row as it was before",
        last["before"]["name"] == "Ada" and last["after"]["name"] == "Ada Lovelace",
    )
    await manager.stop_all()
    count = len(seen)
    account.delete("customer", first[1]["id"])
    account.update("customer", first[2]["id"], {"name": "Edsger Dijkstra"})
    account.skew += _MONTH
    manager = await connect()
    await _until(lambda: "cdc.repaired" in kinds())
    missed = seen[count:]
    stage.step(
        "the mesh was off for a month: Stripe has forgotten the changes, and a gap is reported",
        missed[0].event_type.value == "cdc.gap" if missed else False,
    )
    gone = [e.payload["primary_key"]["id"] for e in missed if e.event_type.value == "cdc.delete"]
    names = {e.payload["after"]["name"] for e in missed if e.event_type.value == "cdc.snapshot"}
    stage.step(
        "the customers were read again; the missing one is published as deleted",
        gone == [first[1]["id"]] and "Edsger Dijkstra" in names,
        missed[-1].payload["cause"] if missed else "",
    )
    stage.table(("event", "customer", "before", "after"), [_row(event) for event in seen])
    await manager.stop_all()
    stage.try_next(
        f"dimesh --bus-path {stage.database} tail cdc.stripe --all", "the feed, with the gap and its repair"
    )
    stage.try_next(
        "dimesh sandbox stripe", "Stripe's API on this machine, with a page to change things by hand"
    )


def _row(event: Event) -> tuple[str, str, str, str]:
    payload = event.payload
    before, after = (payload.get(name) or {} for name in ("before", "after"))
    key = (payload.get("primary_key") or {}).get("id", "")
    return event.event_type.value, key[:10], before.get("name", "–"), after.get("name", "–")


async def _until(true: Callable[[], bool], timeout: float = 30.0) -> None:
    """Wait until ``true()``, or until the time is over: the following step shows which."""
    end = time.monotonic() + timeout
    while not true() and time.monotonic() < end:  # noqa: ASYNC110 - a demo may poll
        await asyncio.sleep(0.005)
