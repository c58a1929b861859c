"""The newest records of a topic, found by reading backwards from its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from dimesh.bus.backwards import BackwardsReader
from dimesh.bus.engine import EventBus
from dimesh.bus.reading import PAGE, read_all
from dimesh.ops.search import Search
from dimesh.ops.topics import topic_info
from dimesh.spi.bus import Delivery, StartAt


@dataclass(frozen=True, slots=True)
class NewestRecords:
    """The result of :func:`newest_records`."""

    records: list[Delivery]
    """The records, oldest first."""
    following: Mapping[int, int]
    """The offset of each partition at which reading continues without a gap."""
    older: bool
    """Whether the topic has older records, which may meet the search, too."""


async def newest_records(
    bus: EventBus, topic: str, count: int, search: Search | None = None, since: datetime | None = None
) -> NewestRecords:
    """Return the newest records that meet a search. No group moves.

    A log is read backwards, so the cost is that of the records up to the last one found. Where a backend reports no ends of its
    topics (Pub/Sub), everything that the topic holds since ``since`` is read.

    Args:
        bus: an open bus.
        topic: the topic.
        count: the largest number of records to return.
        search: the records to look for; None: all.
        since: leave older records out.

    Raises:
        TopicNotFoundError: there is no such topic.
        NotOfferedError: the backend cannot read records again.
    """
    info = await topic_info(bus, topic)
    newest = _Newest(count, search or Search(), since)
    if info.latest:
        reader = BackwardsReader(bus, info, count)
        if not count:
            return NewestRecords([], dict(info.latest), bool(reader.unread))
        while reader.unread:
            async for page in reader.window():
                for delivery in page:
                    newest.add(delivery)
                newest.cut()
            for partition, oldest in reader.oldest.items():
                if newest.enough(oldest):
                    reader.leave(partition)
        return NewestRecords(newest.records, dict(info.latest), reader.cut_off or newest.dropped)
    following: dict[int, int] = {}
    async for delivery in read_all(bus.door, topic, since or StartAt.EARLIEST):
        newest.add(delivery)
        following[delivery.partition] = delivery.offset + 1
        if len(newest.records) >= count + PAGE:
            newest.cut()
    newest.cut()
    return NewestRecords(newest.records, following, newest.dropped or since is not None)


class _Newest:
    """The newest records seen so far."""

    def __init__(self, count: int, search: Search, since: datetime | None) -> None:
        self.count = count
        self._search = search
        self._since = None if since is None else since.timestamp()
        self.records: list[Delivery] = []
        self.dropped = False

    def add(self, delivery: Delivery) -> None:
        """Keep a record that is wanted."""
        if (self._since is None or delivery.timestamp >= self._since) and self._search.wants(delivery):
            self.records.append(delivery)

    def cut(self) -> None:
        """Drop the oldest records that are too many."""
        self.records.sort(key=lambda d: (d.timestamp, d.partition, d.offset))
        self.dropped |= len(self.records) > self.count
        del self.records[: max(len(self.records) - self.count, 0)]

    def enough(self, oldest: float) -> bool:
        """Return whether records taken before a time cannot be among the newest."""
        if self._since is not None and oldest < self._since:
            return True
        return len(self.records) >= self.count and oldest <= self.records[0].timestamp
