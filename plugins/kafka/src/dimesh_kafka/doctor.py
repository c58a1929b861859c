"""The checks of ``dimesh doctor`` on a broker: create a topic, publish, read, join a group, and remove everything again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final
from uuid import uuid4

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from dimesh.clock import Clock
from dimesh.errors import DimeshError
from dimesh.events import Event
from dimesh.spi.bus import BusBackend, Finding, Record, StartAt, TopicConfig
from dimesh_kafka.admin import Admin
from dimesh_kafka.options import KafkaOptions
from dimesh_kafka.transactions import Transactor

_SKEW: Final = 1.0
"""The difference in seconds between our clock and the broker's from which times are misleading."""


async def examine(
    bus: BusBackend, admin: Admin, transactor: Transactor, options: KafkaOptions, clock: Clock
) -> AsyncIterator[Finding]:
    """Yield what each check found.

    Args:
        bus: the open backend.
        admin: its administration.
        transactor: its transactions.
        options: its options.
        clock: its clock.
    """
    if options.tls:
        yield Finding(
            "encryption",
            True if options.tls_verify else None,
            "TLS, certificate and name verified"
            if options.tls_verify
            else "TLS, but tls_verify = false lets anybody on the network path read and change events",
        )
    else:
        yield Finding(
            "encryption", None, "none: events are not encrypted; set tls = true outside a closed network"
        )
    topic = f"dimesh.doctor.kafka.{uuid4().hex[:8]}"
    try:
        await admin.create(topic, TopicConfig(partitions=1))
        yield Finding("topics", True, "can be created")
        async for finding in _durability(admin, topic):
            yield finding
        async for finding in _round_trip(bus, clock, topic):
            yield finding
    except DimeshError as error:
        yield Finding("permissions", False, str(error))
    finally:
        try:
            await bus.delete_topic(topic)
        except DimeshError as error:
            yield Finding("topics", None, f"cannot be removed: {error}")
    async for finding in _lag(bus, clock, admin):
        yield finding
    try:
        async with transactor.transaction("try a transaction"):
            pass
        yield Finding("transactions", True, "permitted (delayed delivery and state need them)")
    except DimeshError as error:
        yield Finding("transactions", None, f"delayed delivery and state will fail: {error}")


async def _durability(admin: Admin, topic: str) -> AsyncIterator[Finding]:
    (described,) = [t for t in await admin.client.describe_topics() if t["topic"] == topic]
    part = described["partitions"][0]
    replicas, in_sync = len(part["replicas"]), len(part["isr"])
    settings = await admin.settings(topic)
    least = int(settings["min.insync.replicas"][0])
    found = f"{replicas} replicas, {in_sync} in sync; acknowledged by at least {least} (acks=all, min.insync.replicas={least})"
    if in_sync < least:
        yield Finding("replicas", False, f"{found}: nothing can be published")
    elif least < 2:
        yield Finding(
            "replicas", None, f"{found}: the loss of one broker can lose acknowledged events. Use 3 and 2"
        )
    elif replicas == least:
        yield Finding("replicas", None, f"{found}: nothing can be published while one broker is down")
    else:
        yield Finding("replicas", True, found)
    leader = part["leader"]
    broker = await admin.describe(ConfigResource(ConfigResourceType.BROKER, str(leader)))
    if broker.get("auto.create.topics.enable", ("false", False))[0] == "true":
        yield Finding(
            "topic names",
            None,
            "auto.create.topics.enable is on: a misspelt topic is created, and a deleted one comes back",
        )


async def _round_trip(bus: BusBackend, clock: Clock, topic: str) -> AsyncIterator[Finding]:
    before = clock.time()
    await bus.append(topic, [Record.of(Event("system.event", None, {"from": "doctor"}), "doctor")])
    after = clock.time()
    (delivery,) = await bus.read(topic, StartAt.EARLIEST, 1)
    skew = delivery.timestamp - (before + after) / 2
    yield Finding(
        "broker's clock",
        True if abs(skew) < _SKEW else None,
        f"{abs(skew) * 1000:.0f} ms {'ahead of' if skew > 0 else 'behind'} ours"
        + ("" if abs(skew) < _SKEW else ": starts by time, delays and retention follow the broker's"),
    )
    try:
        await bus.seek_group(topic, "dimesh-doctor", StartAt.EARLIEST)
        yield Finding("group rights", True, "can commit")
    except DimeshError as error:
        yield Finding("group rights", False, str(error))


async def _lag(bus: BusBackend, clock: Clock, admin: Admin) -> AsyncIterator[Finding]:
    """Report the group that is nearest to losing events to retention."""
    worst: tuple[float, str] = (0.0, "")
    infos = [g for g in await bus.groups() if g.lag]
    for info in infos[:200]:
        settings = await admin.settings(info.topic)
        kept = float(settings.get("retention.ms", ("-1", False))[0]) / 1000
        if kept <= 0:
            continue
        oldest = await bus.read(info.topic, {info.partition: info.committed or 0}, 1)
        if oldest:
            share = (clock.time() - oldest[0].timestamp) / kept
            worst = max(worst, (share, f"{info.group} of {info.topic}"))
        await asyncio.sleep(0)
    if worst[0] >= 0.5:
        yield Finding(
            "retention",
            None,
            f"{worst[1]} is {worst[0]:.0%} of the retention time behind: events will be removed before they are handled",
        )
    else:
        yield Finding("retention", True, "no group is close to losing events to it")
