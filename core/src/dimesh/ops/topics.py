"""Topics and consumer groups: their size and lag, and moving a group to another position."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from dimesh.bus.engine import EventBus
from dimesh.bus.options import SubscriptionState
from dimesh.bus.status import SubscriptionStatus, read_statuses
from dimesh.bus.topics import check_user_topic
from dimesh.errors import GroupNotFoundError, TopicNotFoundError
from dimesh.spi.bus import Start, StartAt, TopicConfig, TopicInfo

StartPoint: TypeAlias = StartAt | datetime | int
"""Where to start reading a topic: at one of its ends, at a time, or at an offset in every partition."""


@dataclass(frozen=True, slots=True)
class TopicSummary:
    """One topic and its size."""

    topic: str
    partitions: int
    records: int | None
    """The number of records; None where the backend cannot count them."""
    bytes: int | None
    next_offset: int
    """The highest offset of the next record, over all partitions."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of a topic is kept. None: no limit is set, or the backend's default applies."""

    seconds: float | None = None
    bytes: int | None = None
    records: int | None = None


@dataclass(frozen=True, slots=True)
class PartitionDetail:
    """The ends of one partition; None where the backend has no offsets."""

    partition: int
    first_offset: int | None
    """The offset of the oldest record that is kept."""
    next_offset: int | None


@dataclass(frozen=True, slots=True)
class TopicDetail:
    """Everything that is known about one topic."""

    topic: str
    records: int | None
    """The number of records; None where the backend cannot count them."""
    bytes: int | None
    retention: Retention
    partitions: tuple[PartitionDetail, ...]
    groups: tuple[GroupSummary, ...]


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One partition of a topic as one group has handled it."""

    topic: str
    group: str
    partition: int
    committed: int | None
    latest: int
    lag: int | None
    """The number of events not handled yet; None where the backend cannot count them."""
    member: str | None


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """One group of a topic, over all partitions."""

    topic: str
    group: str
    lag: int | None
    """The number of events not handled yet; None where the backend cannot count them."""
    members: int
    state: str = "running"
    """The state of its members: ``running``, or ``paused``, ``open`` (most calls failed, and none is started for a while) or
    ``half-open`` if one of them reported that."""
    reason: str = ""
    """The reason for that state, with the time since when it holds."""


@dataclass(frozen=True, slots=True)
class PartitionMove:
    """The committed offset of one partition before and after a move."""

    partition: int
    before: int | None
    after: int


async def list_topics(bus: EventBus) -> list[TopicSummary]:
    """Return every topic with its size."""
    return [
        TopicSummary(t.name, t.partitions, t.records, t.size, max(t.latest.values(), default=0))
        for t in await bus.door.topics()
    ]


async def create_topic(
    bus: EventBus, name: str, partitions: int | None = None, retention: Retention | None = None
) -> bool:
    """Create a topic, with the backend's number of partitions and retention by default. One that exists may get more partitions
    and another retention.

    Returns:
        Whether the topic is new.

    Raises:
        EventError: the name is not acceptable, or is not for users.
        ConfigurationError: the topic has more partitions already.
        NotOfferedError: the backend does not offer that retention.
    """
    check_user_topic(name)
    known = {info.name for info in await bus.door.topics()}
    kept = retention or Retention()
    await bus.door.create_topic(name, TopicConfig(partitions, kept.seconds, kept.bytes, kept.records))
    return name not in known


async def delete_topic(bus: EventBus, name: str) -> None:
    """Delete a topic with its records and the positions of its groups. Its dead letters are another topic, which stays.

    Raises:
        EventError: the topic is not for users.
        TopicNotFoundError: there is no such topic.
    """
    check_user_topic(name)
    await topic_info(bus, name)
    await bus.door.delete_topic(name)


async def describe_topic(bus: EventBus, name: str) -> TopicDetail:
    """Return the partitions, the retention and the groups of a topic.

    Raises:
        TopicNotFoundError: there is no such topic.
    """
    info = await topic_info(bus, name)
    groups = summarize_groups(await list_partitions(bus, name), await list_stopped(bus))
    config = info.config
    return TopicDetail(
        info.name,
        info.records,
        info.size,
        Retention(config.retention_seconds, config.retention_bytes, config.retention_records),
        tuple(
            PartitionDetail(number, info.earliest.get(number), info.latest.get(number))
            for number in range(info.partitions)
        ),
        tuple(groups),
    )


async def topic_info(bus: EventBus, topic: str) -> TopicInfo:
    """Return what the backend knows about one topic.

    Raises:
        TopicNotFoundError: there is no such topic.
    """
    for info in await bus.door.topics():
        if info.name == topic:
            return info
    raise TopicNotFoundError(f"no topic is named {topic!r}; 'dimesh topics' lists them")


async def list_partitions(bus: EventBus, topic: str | None = None) -> list[PartitionLag]:
    """Return the lag of every group in every partition.

    Args:
        bus: an open bus.
        topic: only groups of this topic; None: of all topics.

    Raises:
        TopicNotFoundError: there is no topic of this name.
    """
    found = [
        PartitionLag(g.topic, g.group, g.partition, g.committed, g.latest, g.lag, g.member)
        for g in await bus.door.groups()
        if topic is None or g.topic == topic
    ]
    if topic is not None and not found:
        await topic_info(bus, topic)  # a name with a typo is no topic without groups
    return found


async def list_stopped(bus: EventBus) -> list[SubscriptionStatus]:
    """Return the subscriptions with a group whose handler is not called: paused, or with an open circuit.

    A subscription of a process that died is listed until its group has other members or none.
    """
    statuses = [s for s in await read_statuses(bus.door) if s.state is not SubscriptionState.RUNNING]
    if not statuses:
        return []
    members = {(g.topic, g.group, g.member) for g in await bus.door.groups() if g.member is not None}
    return [
        status
        for status in statuses
        if any((t, g) == (status.topic, status.group) and status.id in member for t, g, member in members)
    ]


def summarize_groups(
    partitions: Iterable[PartitionLag], stopped: Iterable[SubscriptionStatus] = ()
) -> list[GroupSummary]:
    """Add the partitions of each group up.

    Args:
        partitions: from :func:`list_partitions`.
        stopped: from :func:`list_stopped`.
    """
    states = {(status.topic, status.group): status for status in stopped}
    lags: dict[tuple[str, str], int | None] = {}
    members: dict[tuple[str, str], set[str]] = {}
    for p in partitions:
        name = p.topic, p.group
        total = lags.get(name, 0)
        lags[name] = None if p.lag is None or total is None else total + p.lag
        members.setdefault(name, set()).update([p.member] if p.member else [])
    return [
        GroupSummary(
            topic,
            group,
            lag,
            len(members[topic, group]),
            *((status.state.value, f"since {status.since}: {status.reason}") if status else ()),
        )
        for (topic, group), lag in lags.items()
        for status in (states.get((topic, group)),)
    ]


def start_in(info: TopicInfo, start: StartPoint) -> Start:
    """Return a start point as the backend takes it: an offset is applied to every partition."""
    return dict.fromkeys(range(info.partitions), start) if isinstance(start, int) else start


async def move_group(
    bus: EventBus, topic: str, group: str, start: StartPoint, *, dry_run: bool = False
) -> list[PartitionMove]:
    """Move a group without members to another position of its topic.

    Args:
        bus: an open bus.
        topic: the topic.
        group: the group.
        start: the new position.
        dry_run: check the topic and the group, and move nothing; the result is then empty.

    Raises:
        TopicNotFoundError: there is no such topic.
        GroupNotFoundError: the topic has no such group.
    """
    info = await topic_info(bus, topic)
    committed = {p.partition: p.committed for p in await list_partitions(bus, topic) if p.group == group}
    if not committed:
        raise GroupNotFoundError(f"topic {topic!r} has no group {group!r}; 'dimesh groups' lists them")
    if dry_run:
        return []
    moved = await bus.door.seek_group(topic, group, start_in(info, start))
    return [PartitionMove(p, committed.get(p), after) for p, after in sorted(moved.items())]
