"""The records that a subscription received and has not finished, and the finished ones that are not committed yet."""

from __future__ import annotations

import asyncio

from dimesh.bus.progress import PartitionProgress
from dimesh.bus.spec import SubscriptionSpec
from dimesh.spi.bus import Delivery


def settle(future: asyncio.Future[None]) -> None:
    """Set the result, unless it is set already or the future was cancelled."""
    if not future.done():
        future.set_result(None)


class InFlight:
    """Counts records from receipt to the end of their handling. The hot path of the workers updates the counters inline."""

    __slots__ = (
        "acks",
        "alarm",
        "commit_wanted",
        "count",
        "spec",
        "stopping",
        "thresholds",
        "uncommitted",
    )

    def __init__(self, spec: SubscriptionSpec) -> None:
        self.spec = spec
        self.count = 0
        """The number of records that were received and are not finished."""
        self.uncommitted = 0
        """The number of records that were finished since the last commit."""
        self.acks: list[Delivery] = []
        """Finished deliveries of a queue, to be acknowledged."""
        self.commit_wanted = asyncio.Event()
        """Set when a commit is due."""
        self.thresholds: list[tuple[int, asyncio.Future[None]]] = []
        """Each waits for ``count`` to fall below its number."""
        self.alarm = 0
        """The highest of these numbers; 0: nobody waits."""
        self.stopping = False
        """Whether the subscription is being closed."""

    def settle(self, part: PartitionProgress, delivery: Delivery) -> None:
        """Count a record as finished, and ask for a commit when enough are."""
        spec = self.spec
        self.count -= 1
        if spec.tracks or not spec.is_log:
            if spec.tracks:
                part.pending.discard(delivery.offset)
            else:
                self.acks.append(delivery)
            self.uncommitted += 1
            if self.uncommitted >= spec.commit_every:
                self.uncommitted = 0
                self.commit_wanted.set()
        if self.count < self.alarm:
            self.check_thresholds()

    def abandon(self, count: int = 1) -> None:
        """Leave received records unfinished: the next member of the group gets them."""
        self.count -= count
        if self.count < self.alarm:
            self.check_thresholds()

    def check_thresholds(self) -> None:
        """Wake the waiters whose number is reached."""
        for target, future in self.thresholds:
            if self.count < target:
                settle(future)
        self._keep([entry for entry in self.thresholds if self.count >= entry[0]])

    def _keep(self, thresholds: list[tuple[int, asyncio.Future[None]]]) -> None:
        self.thresholds = thresholds
        self.alarm = max((target for target, _ in thresholds), default=0)

    async def below(self, target: int, or_else: asyncio.Future[None] | None = None) -> None:
        """Wait until fewer than ``target`` records are in flight, or ``or_else`` is done."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (target, future)
        self._keep([*self.thresholds, entry])
        try:
            if or_else is None:
                await future
            else:
                await asyncio.wait((future, or_else), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._keep([other for other in self.thresholds if other is not entry])
