"""The records of a topic: reading them page by page, and publishing a range of them again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from dimesh.bus.engine import EventBus
from dimesh.bus.reading import PAGE, read_all, replay
from dimesh.errors import ConfigurationError, TopicNotFoundError
from dimesh.events.names import check_topic
from dimesh.ops.topics import StartPoint, start_in, topic_info
from dimesh.spi.bus import Delivery, Start, StartAt

_POLL: Final = 0.2
"""Seconds between two reads of a topic that is followed."""


@dataclass(frozen=True, slots=True)
class CopyResult:
    """The outcome of :func:`copy_records`."""

    topic: str
    to_topic: str
    events: int
    dry_run: bool


async def read_records(
    bus: EventBus,
    topic: str,
    start: datetime | Mapping[int, int] | None = None,
    *,
    follow: bool = False,
) -> AsyncIterator[Delivery]:
    """Yield the records of a topic, oldest first. No group moves.

    Args:
        bus: an open bus.
        topic: the topic.
        start: leave records before this time, or before these offsets of the partitions, out.
        follow: wait for new records, and for the topic itself, instead of ending.

    Raises:
        TopicNotFoundError: there is no such topic, and ``follow`` is off.
    """
    while True:
        try:
            info = await topic_info(bus, topic)
            break
        except TopicNotFoundError:
            if not follow:
                raise
            await asyncio.sleep(_POLL)
    begin: Start = start or StartAt.EARLIEST
    position = dict(start if isinstance(start, Mapping) else info.earliest)
    ends = info.latest
    fresh = 0
    while True:
        async for delivery in read_all(bus.door, topic, begin):
            yield delivery
            fresh += 1
            position[delivery.partition] = max(delivery.offset + 1, position.get(delivery.partition, 0))
        if not follow:
            return
        # All that is before the ends has been read: they were looked up before that.
        begin = position = {partition: max(at, ends.get(partition, 0)) for partition, at in position.items()}
        if fresh >= PAGE:
            ends, fresh = (await topic_info(bus, topic)).latest, 0
        await asyncio.sleep(_POLL)


async def copy_records(
    bus: EventBus, topic: str, to_topic: str, start: StartPoint, *, dry_run: bool = False
) -> CopyResult:
    """Publish the events of a topic again, to another topic. They keep their ids and ordering keys.

    Args:
        bus: an open bus.
        topic: the topic to read.
        to_topic: the topic to publish to.
        start: where to start.
        dry_run: count the events, and publish none.

    Raises:
        TopicNotFoundError: there is no topic to read.
        ConfigurationError: both topics are the same.
    """
    info = await topic_info(bus, topic)
    check_topic(to_topic)
    if to_topic == topic:
        raise ConfigurationError("--to-topic is the topic itself: the replay would never end")
    events = await replay(bus.door, topic, to_topic, start_in(info, start), dry_run=dry_run)
    return CopyResult(topic, to_topic, events, dry_run)
