"""What a subscription holds of one partition: which records are open, and how far everything is done."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from dimesh.bus.dedup import SeenWindow
from dimesh.clock import Handle
from dimesh.spi.bus import Attempts, Delivery, Record


class Lane:
    """The records of one ordering key that wait for their turn. One worker at a time serves a lane, so its records
    are handled in order; a failing record keeps its lane waiting and nobody else's.
    """

    __slots__ = ("key", "part", "queue", "timer")

    def __init__(self, part: PartitionProgress, key: str) -> None:
        self.part = part
        self.key = key
        self.queue: deque[Delivery] = deque()
        self.timer: Handle | None = None
        """Set while the lane is parked: its first record is to be tried again, or its batch to fill."""


class PartitionProgress:
    """One assigned partition.

    The watermark is the smallest open offset, or where reading goes on if nothing is open: everything below it was
    handled, so committing it can never skip a record.
    """

    __slots__ = (
        "attempts",
        "committed",
        "given_up",
        "lanes",
        "left",
        "next_offset",
        "number",
        "open",
        "outputs",
        "running",
        "seen",
    )

    def __init__(self, number: int, offset: int, window: int) -> None:
        self.number = number
        self.next_offset = offset
        self.committed = offset
        self.open: set[int] = set()
        self.lanes: dict[str, Lane] = {}
        self.running = 0
        """Lanes that a worker serves right now."""
        self.seen = SeenWindow(window) if window else None
        self.attempts: dict[int, Attempts] = {}
        self.outputs: dict[int, Sequence[Record]] = {}
        """What handlers produced, by the offset of what they handled, until the position passes it."""
        self.given_up = False
        """Revoked or lost: nothing more of it is begun."""
        self.left: asyncio.Future[None] | None = None
        """Waits for the last running lane of a revoked partition."""

    def watermark(self) -> int:
        """The offset to commit."""
        return min(self.open) if self.open else self.next_offset

    def drop_parked(self) -> int:
        """Forget the lanes that wait for another attempt; returns how many records. They stay open."""
        dropped = 0
        for lane in self.lanes.values():
            if lane.timer is not None:
                dropped += len(lane.queue)
                lane.queue.clear()
                lane.timer.cancel()
                lane.timer = None
        return dropped

    def give_up(self) -> int:
        """Drop what was not begun; returns how many records. They stay open, so they hold the watermark."""
        self.given_up = True
        dropped = 0
        for lane in self.lanes.values():
            dropped += len(lane.queue)
            lane.queue.clear()
            if lane.timer is not None:
                lane.timer.cancel()
                lane.timer = None
        return dropped
