"""Topics, groups and records, as typed results."""

from __future__ import annotations

import asyncio
from dataclasses import FrozenInstanceError, asdict
from datetime import UTC, datetime, timedelta

import pytest

from dimesh.errors import ConfigurationError, EventError, GroupNotFoundError, TopicNotFoundError
from dimesh.events import Event
from dimesh.mesh import Mesh
from dimesh.ops.records import copy_records, read_records
from dimesh.ops.topics import (
    GroupSummary,
    PartitionDetail,
    PartitionLag,
    Retention,
    create_topic,
    delete_topic,
    describe_topic,
    list_partitions,
    list_topics,
    move_group,
    summarize_groups,
)
from dimesh.spi.bus import StartAt
from dimesh_contracts.waiting import deadline, eventually


async def publish(mesh: Mesh, topic: str, *numbers: int) -> None:
    await mesh.bus.publish_many(topic, [Event("order.created", None, n) for n in numbers], key="k")


async def payloads(mesh: Mesh, topic: str, since: datetime | None = None) -> list[object]:
    return [delivery.record.event.payload async for delivery in read_records(mesh.bus, topic, since)]


async def test_topics_have_a_size(mesh: Mesh) -> None:
    assert await list_topics(mesh.bus) == []
    await publish(mesh, "orders", 1, 2, 3)
    (topic,) = await list_topics(mesh.bus)
    assert (topic.topic, topic.records, topic.next_offset) == ("orders", 3, 3)
    with pytest.raises(FrozenInstanceError):
        topic.records = 4  # type: ignore[misc]


async def test_groups_have_a_lag_and_can_be_moved(mesh: Mesh) -> None:
    await publish(mesh, "orders", 1, 2, 3)
    subscription = await mesh.bus.subscribe(
        "orders", lambda event: None, group="billing", start=StartAt.EARLIEST
    )

    async def handled() -> bool:
        (group,) = summarize_groups(await list_partitions(mesh.bus, "orders"))
        return group == GroupSummary("orders", "billing", 0, 1)

    await eventually(handled)
    await mesh.bus.unsubscribe(subscription)
    with pytest.raises(TopicNotFoundError, match="another"):
        await list_partitions(mesh.bus, "another")
    assert await move_group(mesh.bus, "orders", "billing", 1, dry_run=True) == []
    assert summarize_groups(await list_partitions(mesh.bus))[0].lag == 0
    moved = {m.partition: (m.before, m.after) for m in await move_group(mesh.bus, "orders", "billing", 1)}
    assert (3, 1) in moved.values()
    assert summarize_groups(await list_partitions(mesh.bus))[0].lag == 2
    with pytest.raises(GroupNotFoundError, match="has no group 'nobody'"):
        await move_group(mesh.bus, "orders", "nobody", StartAt.EARLIEST)
    with pytest.raises(TopicNotFoundError, match="no topic is named 'nope'"):
        await move_group(mesh.bus, "nope", "billing", StartAt.EARLIEST)


def test_a_lag_that_one_partition_does_not_know_is_not_known() -> None:
    partitions = [
        PartitionLag("t", "g", 0, 1, 5, 4, "one"),
        PartitionLag("t", "g", 1, None, 5, None, "two"),
        PartitionLag("t", "g", 2, 1, 5, 4, None),
        PartitionLag("t", "h", 0, 1, 2, 1, None),
    ]
    assert summarize_groups(partitions) == [GroupSummary("t", "g", None, 2), GroupSummary("t", "h", 1, 0)]


async def test_records_are_read_from_a_time_and_followed(mesh: Mesh) -> None:
    followed: list[object] = []

    async def follow() -> None:
        async for delivery in read_records(mesh.bus, "orders", follow=True):
            followed.append(delivery.record.event.payload)
            if len(followed) == 3:
                return

    following = asyncio.create_task(follow())  # the topic does not exist yet
    await publish(mesh, "orders", 1, 2)
    await publish(mesh, "orders", 3)
    async with deadline():
        await following
    assert followed == [1, 2, 3]
    now = datetime.now(UTC)
    assert await payloads(mesh, "orders", now - timedelta(hours=1)) == [1, 2, 3]
    assert await payloads(mesh, "orders", now + timedelta(hours=1)) == []
    with pytest.raises(TopicNotFoundError):
        await payloads(mesh, "nope")


async def test_a_copy_keeps_ids_and_keys(mesh: Mesh) -> None:
    await publish(mesh, "orders", *range(1_200))
    counted = await copy_records(mesh.bus, "orders", "again", StartAt.EARLIEST, dry_run=True)
    assert asdict(counted) == {"topic": "orders", "to_topic": "again", "events": 1_200, "dry_run": True}
    assert [t.topic for t in await list_topics(mesh.bus)] == ["orders"]
    assert (await copy_records(mesh.bus, "orders", "again", 700)).events == 500
    before = [d.record async for d in read_records(mesh.bus, "orders")][700:]
    after = [d.record async for d in read_records(mesh.bus, "again")]
    assert [r.event.event_id for r in after] == [r.event.event_id for r in before]
    assert {r.key for r in after} == {"k"}
    with pytest.raises(ConfigurationError, match="would never end"):
        await copy_records(mesh.bus, "orders", "orders", StartAt.EARLIEST)


async def test_a_topic_is_created_described_and_deleted(mesh: Mesh) -> None:
    assert await create_topic(mesh.bus, "orders", 2, Retention(seconds=60.0, records=5))
    assert not await create_topic(mesh.bus, "orders", 3)
    await publish(mesh, "orders", 1, 2)
    detail = await describe_topic(mesh.bus, "orders")
    assert (detail.topic, detail.records, detail.groups) == ("orders", 2, ())
    assert detail.retention == Retention(60.0, None, 5)
    assert len(detail.partitions) == 3
    assert PartitionDetail(0, 0, 2) in detail.partitions
    await delete_topic(mesh.bus, "orders")
    for work in (describe_topic, delete_topic):
        with pytest.raises(TopicNotFoundError, match="no topic is named 'orders'"):
            await work(mesh.bus, "orders")


async def test_topics_of_the_engine_are_not_deleted(mesh: Mesh) -> None:
    with pytest.raises(EventError, match="internal topic"):
        await delete_topic(mesh.bus, "dimesh.subscriptions")
