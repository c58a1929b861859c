"""Reading a topic from its end towards its beginning, one window of offsets after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from dimesh.bus.engine import EventBus
from dimesh.bus.reading import PAGE
from dimesh.spi.bus import Delivery, TopicInfo

_WIDEST: Final = 64 * PAGE
"""The largest number of offsets of a window."""


class BackwardsReader:
    """Reads the records that a topic of a log has now. The first window is narrow, and each later one twice as wide.

    Args:
        bus: an open bus.
        info: the topic; its ends must be known.
        width: the number of offsets of each partition in the first window.
        most: the largest number of offsets of each partition to read in all; None: all.
    """

    def __init__(self, bus: EventBus, info: TopicInfo, width: int, most: int | None = None) -> None:
        self._bus = bus
        self._topic = info.name
        self._width = max(1, min(width, PAGE))
        self._first = {
            partition: max(info.earliest.get(partition, 0), 0 if most is None else end - most)
            for partition, end in info.latest.items()
        }
        self.unread = {
            partition: end for partition, end in info.latest.items() if end > self._first[partition]
        }
        """By partition, the offset below which nothing was read yet, without the partitions that need no more reading."""
        self.cut_off = any(
            first > info.earliest.get(partition, 0) for partition, first in self._first.items()
        )
        """Whether there are records that are not read, because there are more than ``most`` or a partition was left."""
        self.oldest: dict[int, float] = {}
        """By partition, the oldest time of a record in the last window."""

    @property
    def offsets(self) -> int:
        """The number of offsets that are left to be read."""
        return sum(end - self._first[partition] for partition, end in self.unread.items())

    def leave(self, partition: int) -> None:
        """Read nothing more of a partition."""
        if self.unread.pop(partition, None) is not None:
            self.cut_off = True

    async def window(self) -> AsyncIterator[Sequence[Delivery]]:
        """Yield the records of the next window in pages. Within a window, the oldest come first.

        Raises:
            TopicNotFoundError: the topic was deleted meanwhile.
        """
        ends = dict(self.unread)
        left = {partition: max(end - self._width, self._first[partition]) for partition, end in ends.items()}
        self.unread = {p: start for p, start in left.items() if start > self._first[p]}
        self.oldest = {}
        self._width = min(self._width * 2, _WIDEST)
        while left:
            size = min(PAGE, max(ends[partition] - at for partition, at in left.items()))
            reached: dict[int, int] = {}
            page = []
            for delivery in await self._bus.door.read(self._topic, left, size):
                partition, offset, time = delivery.partition, delivery.offset, delivery.timestamp
                if partition not in left or offset >= ends[partition]:
                    continue
                page.append(delivery)
                self.oldest[partition] = min(time, self.oldest.get(partition, time))
                reached[partition] = max(offset + 1, reached.get(partition, 0))
            yield page
            # A partition without a record in the page has none before its end: offsets may have holes.
            left = {partition: at for partition, at in reached.items() if at < ends[partition]}
