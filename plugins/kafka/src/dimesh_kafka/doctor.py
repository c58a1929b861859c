"""The checks of ``dimesh doctor`` on a broker: create a topic, publish, read, join a group, and remove everything again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final
from uuid import uuid4

from aiokafka import TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from dimesh.clock import Clock
from dimesh.errors import DimeshError
from dimesh.events import Event
from dimesh.spi.bus import BusBackend, Finding, Record, StartAt, TopicConfig
from dimesh_kafka.admin import Admin
from dimesh_kafka.options import KafkaOptions
from dimesh_kafka.reader import Reader
from dimesh_kafka.transactions import Transactor

_SKEW: Final = 1.0
"""The difference in seconds between our clock and the broker's from which times are misleading."""
_NEAR: Final = 0.5
"""The part of the retention time behind which a group is reported."""
_LOOKED_AT: Final = 20
"""The number of late partitions whose oldest event is read, to name the worst one."""


async def examine(
    bus: BusBackend,
    admin: Admin,
    reader: Reader,
    transactor: Transactor,
    options: KafkaOptions,
    clock: Clock,
) -> AsyncIterator[Finding]:
    """Yield what each check found.

    Args:
        bus: the open backend.
        admin: its administration.
        reader: its reader of records.
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
    async for finding in _lag(bus, admin, reader, clock):
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


async def _lag(bus: BusBackend, admin: Admin, reader: Reader, clock: Clock) -> AsyncIterator[Finding]:
    """Report the group that is nearest to losing events to retention."""
    infos = [info for info in await bus.groups() if info.lag]
    settings = await admin.all_settings({info.topic for info in infos})
    kept = {
        topic: float(found.get("retention.ms", ("-1", False))[0]) / 1000 for topic, found in settings.items()
    }
    # All groups at once: the first record in the newer half of the retention time tells which ones are in the older half.
    now = clock.time()
    halves = {
        TopicPartition(info.topic, info.partition): now - kept[info.topic] * _NEAR
        for info in infos
        if kept.get(info.topic, 0) > 0
    }
    newer = await reader.at_times(halves)
    late = [
        info
        for info in infos
        if (part := TopicPartition(info.topic, info.partition)) in newer
        and ((begin := newer[part]) is None or (info.committed or 0) < begin)
    ]
    worst: tuple[float, str] = (0.0, "")
    for info in late[:_LOOKED_AT]:
        oldest = await bus.read(info.topic, {info.partition: info.committed or 0}, 1)
        if oldest:
            share = (now - oldest[0].timestamp) / kept[info.topic]
            worst = max(worst, (share, f"{info.group} of {info.topic}"))
    if worst[0] >= _NEAR:
        others = f" (and {len(late) - 1} more)" if len(late) > 1 else ""
        yield Finding(
            "retention",
            None,
            f"{worst[1]}{others} is {worst[0]:.0%} of the retention time behind: events will be removed before they are handled",
        )
    else:
        yield Finding("retention", True, "no group is close to losing events to it")
