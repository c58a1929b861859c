"""Reads a topic from end to end without a group, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Final

from dimesh.bus.door import Door, Operation, without_engine_headers
from dimesh.spi.bus import Delivery, Record, StartAt

PAGE: Final = 500
"""The largest number of records of a partition in one page."""


async def read_all(
    door: Door,
    topic: str,
    start: Mapping[int, int] | StartAt | datetime = StartAt.EARLIEST,
    operation: Operation = Operation.READ,
) -> AsyncIterator[Delivery]:
    """Yield the records from ``start`` to the end of the topic as it is when the last page is read.

    Raises:
        TopicNotFoundError: there is no such topic.
    """
    page = await door.read(topic, start, PAGE, operation=operation)
    while page:
        following: dict[int, int] = {}
        for delivery in page:
            yield delivery
            following[delivery.partition] = max(delivery.offset + 1, following.get(delivery.partition, 0))
        page = await door.read(topic, following, PAGE, operation=operation)


async def replay(
    door: Door,
    topic: str,
    to_topic: str,
    start: Mapping[int, int] | StartAt | datetime = StartAt.EARLIEST,
    *,
    dry_run: bool = False,
) -> int:
    """Publish the events of a topic again, to another topic; return their number.

    Event ids and senders stay, so handlers that saw the events lately drop them as repeats. Headers of the engine do not go
    along: a request that is replayed is not answered again.

    Raises:
        TopicNotFoundError: there is no such topic.
        CodecError: a record is not an event.
    """
    count = 0
    waiting: list[Record] = []
    async for delivery in read_all(door, topic, start, Operation.REPLAY):
        count += 1
        if dry_run:
            continue
        waiting.append(Record.of(without_engine_headers(delivery.record.event), delivery.record.key))
        if len(waiting) >= PAGE:
            await door.append(to_topic, waiting, operation=Operation.REPLAY)
            waiting = []
    if waiting:
        await door.append(to_topic, waiting, operation=Operation.REPLAY)
    return count
