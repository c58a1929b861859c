"""What ``dimesh doctor`` tries on a broker: it makes a topic, writes, reads, joins a group, and removes everything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from dimesh.errors import DimeshError
from dimesh.events import Event
from dimesh.spi.bus import Finding, Record, StartAt, TopicConfig
from dimesh_kafka.admin import Admin

if TYPE_CHECKING:
    from dimesh_kafka.backend import KafkaBackend

_SKEW: Final = 1.0
"""Seconds between our clock and the brokers' from which times are misleading."""


async def examine(backend: KafkaBackend, admin: Admin) -> AsyncIterator[Finding]:
    """Each thing that was tried."""
    options = backend.options
    if options.tls:
        yield Finding(
            "encryption",
            True if options.tls_verify else None,
            "TLS, certificate and name verified"
            if options.tls_verify
            else "TLS, but tls_verify = false lets anybody in between read and change events",
        )
    else:
        yield Finding(
            "encryption", None, "none: events travel in the clear; set tls = true outside a closed network"
        )
    topic = f"dimesh.doctor.kafka.{uuid4().hex[:8]}"
    try:
        await admin.create(topic, TopicConfig(partitions=1))
        yield Finding("topics", True, "can be made")
        async for finding in _durability(admin, topic):
            yield finding
        async for finding in _round_trip(backend, topic):
            yield finding
    except DimeshError as error:
        yield Finding("permissions", False, str(error))
    finally:
        try:
            await backend.delete_topic(topic)
        except DimeshError as error:
            yield Finding("topics", None, f"cannot be removed: {error}")
    async for finding in _lag(backend, admin):
        yield finding
    try:
        async with backend.transactor.transaction("try a transaction"):
            pass
        yield Finding("transactions", True, "permitted (delayed delivery and state need them)")
    except DimeshError as error:
        yield Finding("transactions", None, f"delayed delivery and state will fail: {error}")


async def _durability(admin: Admin, topic: str) -> AsyncIterator[Finding]:
    found = [t for t in await admin.client.describe_topics() if t["topic"] == topic]
    part = found[0]["partitions"][0]
    copies, in_sync = len(part["replicas"]), len(part["isr"])
    settings = await admin.settings(topic)
    least = int(settings["min.insync.replicas"][0])
    said = f"{copies} copies, {in_sync} in sync; acknowledged when {least} have it (acks=all, min.insync.replicas={least})"
    if in_sync < least:
        yield Finding("copies", False, f"{said}: nothing can be published")
    elif least < 2:
        yield Finding("copies", None, f"{said}: a lost broker can lose acknowledged events. Use 3 and 2")
    elif copies == least:
        yield Finding("copies", None, f"{said}: nothing can be published while one broker is down")
    else:
        yield Finding("copies", True, said)
    leader = part["leader"]
    broker = await admin.describe(ConfigResource(ConfigResourceType.BROKER, str(leader)))
    if broker.get("auto.create.topics.enable", ("false", False))[0] == "true":
        yield Finding(
            "topic names",
            None,
            "auto.create.topics.enable is on: a misspelt topic is made, and a deleted one comes back",
        )


async def _round_trip(backend: KafkaBackend, topic: str) -> AsyncIterator[Finding]:
    before = backend.clock.time()
    await backend.append(topic, [Record.of(Event("system.event", None, {"from": "doctor"}), "doctor")])
    after = backend.clock.time()
    (delivery,) = await backend.read(topic, StartAt.EARLIEST, 1)
    skew = delivery.timestamp - (before + after) / 2
    yield Finding(
        "broker's clock",
        True if abs(skew) < _SKEW else None,
        f"{abs(skew) * 1000:.0f} ms {'ahead of' if skew > 0 else 'behind'} ours"
        + ("" if abs(skew) < _SKEW else ": starts by time, delays and retention follow the broker's"),
    )
    try:
        await backend.seek_group(topic, "dimesh-doctor", StartAt.EARLIEST)
        yield Finding("group rights", True, "can commit")
    except DimeshError as error:
        yield Finding("group rights", False, str(error))


async def _lag(backend: KafkaBackend, admin: Admin) -> AsyncIterator[Finding]:
    """How near each group is to losing events to retention."""
    worst: tuple[float, str] = (0.0, "")
    infos = [g for g in await backend.groups() if g.lag]
    for info in infos[:200]:
        settings = await admin.settings(info.topic)
        kept = float(settings.get("retention.ms", ("-1", False))[0]) / 1000
        if kept <= 0:
            continue
        oldest = await backend.read(info.topic, {info.partition: info.committed or 0}, 1)
        if oldest:
            share = (backend.clock.time() - oldest[0].timestamp) / kept
            worst = max(worst, (share, f"{info.group} of {info.topic}"))
        await asyncio.sleep(0)
    if worst[0] >= 0.5:
        yield Finding(
            "retention",
            None,
            f"{worst[1]} is {worst[0]:.0%} of the retention time behind: events will be removed unhandled",
        )
    else:
        yield Finding("retention", True, "no group is near to losing events to it")
