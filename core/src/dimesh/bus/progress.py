"""What a subscription holds of one partition: which records are pending, and up to where everything is finished."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from dimesh.bus.dedup import SeenWindow
from dimesh.clock import Handle
from dimesh.spi.bus import Attempts, Delivery, Record


class Lane:
    """The records of one ordering key that wait for their turn. One worker at a time serves a lane, so its records are
    handled in order. A failing record holds up its own lane and no other.
    """

    __slots__ = ("interrupted", "key", "part", "queue", "timer")

    def __init__(self, part: PartitionProgress, key: str | None) -> None:
        self.part = part
        self.key = key
        self.queue: deque[Delivery] = deque()
        self.timer: Handle | None = None
        """Set while the lane is parked: its first record waits for its next attempt."""
        self.interrupted: Sequence[Delivery] = ()
        """The records whose handler was ended by GeneratorExit, see :meth:`dimesh.bus.workers.Workers.resume`."""


class PartitionProgress:
    """The progress on one assigned partition.

    The watermark is the smallest pending offset, or the next offset to read if nothing is pending: everything below it was
    handled, so committing it can never skip a record.
    """

    __slots__ = (
        "attempts",
        "began",
        "committed",
        "drained",
        "lanes",
        "mark",
        "next_offset",
        "number",
        "pending",
        "produced",
        "revoked",
        "running",
        "seen",
        "since",
        "suspects",
    )

    def __init__(self, number: int, offset: int, window: int) -> None:
        self.number = number
        self.next_offset = offset
        self.committed = offset
        self.pending: set[int] = set()
        """Offsets that were received and are not finished."""
        self.lanes: dict[str | None, Lane] = {}
        """The lanes by ordering key. The key None is that of the lane for records that are handled with care."""
        self.running = 0
        """The number of lanes that a worker is serving."""
        self.seen = SeenWindow(window) if window else None
        self.attempts: dict[int, Attempts] = {}
        self.produced: dict[int, tuple[Delivery, Sequence[Record]]] = {}
        """By offset, until the position passes it: a record that was handled, and the records that its handler produced."""
        self.began = False
        """Whether records were received."""
        self.mark: Delivery | None = None
        """The record that bears this member's mark, see :mod:`dimesh.bus.crashes`."""
        self.suspects = 0
        """The number of records that are still to be handled with care."""
        self.since = 0.0
        """The wall-clock time before which the backend took these records."""
        self.revoked = False
        """Whether the partition is revoked or lost: nothing more of it is started."""
        self.drained: asyncio.Future[None] | None = None
        """Done when the last running lane of a revoked partition has ended."""

    def watermark(self) -> int:
        """Return the offset to commit."""
        return min(self.pending) if self.pending else self.next_offset

    def drop_parked(self) -> int:
        """Forget the lanes that wait for another attempt; return the number of their records, which stay pending."""
        dropped = 0
        for lane in self.lanes.values():
            if lane.timer is not None:
                dropped += len(lane.queue)
                lane.queue.clear()
                lane.timer.cancel()
                lane.timer = None
        return dropped

    def revoke(self) -> int:
        """Start nothing more: see :meth:`drop_waiting`."""
        self.revoked = True
        return self.drop_waiting()

    def drop_waiting(self) -> int:
        """Drop what was not started; return the number of records. They stay pending, so they hold the watermark."""
        dropped = 0
        for lane in self.lanes.values():
            dropped += len(lane.queue)
            lane.queue.clear()
            if lane.timer is not None:
                lane.timer.cancel()
                lane.timer = None
        return dropped
