"""The log of one partition in memory."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable

from dimesh.backends.bus.memory.member import Member
from dimesh.spi.bus import Delivery


class Log:
    """The records of one partition that are still kept, and the streams that want each kind of record."""

    __slots__ = ("next_offset", "partition", "records", "routes", "trim_at")

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.next_offset = 0
        self.records: deque[Delivery] = deque()
        self.routes: dict[tuple[str, str, str], tuple[Member, ...]] = {}
        """The streams that want a record, by the record's type, pillar and priority."""
        self.trim_at = 1_024
        """The offset at which the log is trimmed next."""

    @property
    def earliest(self) -> int:
        """The offset of the oldest record that is kept; of the next record if none is."""
        return self.records[0].offset if self.records else self.next_offset

    def since(self, offset: int) -> Iterable[Delivery]:
        """Return the kept records from ``offset`` on. Offsets in a memory log have no holes, so this needs no search."""
        skip = max(offset - self.earliest, 0)
        return itertools.islice(self.records, skip, None)
