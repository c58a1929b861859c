"""The trail of an event: the events of all topics that caused it or that it caused, found by their ids."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

from dimesh.bus.backwards import BackwardsReader
from dimesh.bus.engine import EventBus
from dimesh.bus.reading import PAGE, read_all
from dimesh.bus.replies import REPLY_PREFIX
from dimesh.bus.topics import OWN
from dimesh.errors import CodecError, NotOfferedError, TopicNotFoundError
from dimesh.events.event import Event
from dimesh.events.topics import DEAD_LETTER_SUFFIX
from dimesh.spi.bus import Delivery, StartAt, TopicInfo

LAST: Final = 50_000
"""The number of the newest events of each partition that are searched by default."""
STEPS: Final = 5
"""The number of steps from an event to its causes, and to its results, by default."""
MOST: Final = 500
"""The largest number of events that are kept: the input may be hostile."""
COPIES: Final = 50
"""The largest number of records of one event that are kept."""
_SLACK: Final = 60.0
"""The seconds by which the clocks of senders and of the bus may differ."""

_AT_ONCE: Final = 8
"""The number of topics of a queue that are read at the same time."""

Progress = Callable[[int, int], object]
"""Called with the number of records that were read, and the number that may be read in all."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a search goes."""

    last: int | None = LAST
    """The number of the newest events of each partition that are searched; None: all. A bus that reports no end of a topic is
    searched without this limit."""
    since: datetime | None = None
    """Leave older events out."""
    steps: int = STEPS
    """The number of steps from the event to its causes, and to its results."""
    topics: tuple[str, ...] = ()
    """The topics to search, with their dead letters, by name or by patterns such as `orders.*`; none: all topics of the bus."""


@dataclass(frozen=True, slots=True)
class SearchedTopic:
    """The part of a topic that was searched."""

    topic: str
    events: int
    """The number of events that were read."""
    oldest: str | None
    """The time of the oldest of them, ISO 8601; None if there was none."""
    complete: bool
    """Whether these are all events that the topic holds."""


class Copy(NamedTuple):
    """One record of an event: it may be in several topics, and again in the same one."""

    topic: str
    delivery: Delivery
    event: Event

    @property
    def place(self) -> tuple[str, int, int]:
        """The topic, the partition and the offset."""
        return self.topic, self.delivery.partition, self.delivery.offset


class Trail:
    """Searches the topics of a bus. Each pass goes backwards through all of them, as far as it must.

    Args:
        bus: an open bus.
        topics: the topics of the bus, as they are now: what is published later is not searched.
        reach: how far to go.
        progress: is called after each page.
    """

    def __init__(
        self, bus: EventBus, topics: Iterable[TopicInfo], reach: Reach, progress: Progress | None = None
    ) -> None:
        self._bus = bus
        self._topics = [info for info in topics if _is_searched(info.name)]
        self._reach = reach
        self._progress = progress
        self._wanted: set[str] = set()
        self._parents: set[str] = set()
        self._since = None if reach.since is None else max(reach.since.timestamp(), 0.0)
        self.copies: dict[str, list[Copy]] = {}
        """By event id, the records of each event that was found, oldest first."""
        self.results: dict[str, list[str]] = {}
        """By event id, the ids of the events that name it as their cause."""
        self.more = False
        """Whether there are more results than were followed."""
        self.searched: dict[str, SearchedTopic] = {}
        """By topic, the largest part that was searched."""

    async def find(self, event_id: str) -> None:
        """Search for an event and for its results."""
        await self._search({event_id}, {event_id})

    async def spread(self, event_id: str, cause: str | None) -> list[str]:
        """Search for the causes of an event and for the results of its results.

        Args:
            event_id: an event that :meth:`find` has searched for.
            cause: the id of its cause.

        Returns:
            The ids of the causes, the nearest first. The last one may not be found.
        """
        causes = [cause] if cause is not None and cause != event_id else []
        newest = self.results.get(event_id, [])
        for step in range(self._reach.steps):
            missing = {id for id in causes[-1:] if id not in self.copies}
            parents = set(newest) if step < self._reach.steps - 1 and not self.more else set()
            if missing or parents:
                await self._search(missing, parents)
            newest = [result for parent in parents for result in self.results.get(parent, ())]
            known = self.copies.get(causes[-1]) if causes else None
            above = known[0].event.metadata.causation_id if known else None
            if above is not None and above not in (*causes, event_id) and len(causes) < self._reach.steps:
                causes.append(above)
            elif not newest:
                break
        return causes

    # -- one pass ----------------------------------------------------------------------------------

    async def _search(self, wanted: set[str], parents: set[str]) -> None:
        self._wanted, self._parents = wanted, parents
        windows = {info.name: _Windows(self._bus, info, self._reach, self._bound()) for info in self._topics}
        total = sum(one.expected for one in windows.values())
        # One window of each topic after the other: what is found in one topic shortens the search of all. The topics of a queue
        # are read at the same time, since each reading waits for a silence.
        gate = asyncio.Semaphore(_AT_ONCE if self._bus.door.family == "queue" else 1)
        active = dict(windows)

        async def read(name: str, one: _Windows) -> None:
            async with gate:
                try:
                    async for page in one.window():
                        for delivery in page:
                            self._visit(name, delivery)
                        if self._progress is not None:
                            self._progress(sum(w.events for w in windows.values()), total)
                except (TopicNotFoundError, NotOfferedError):  # deleted meanwhile; or without retention
                    del active[name]
                    return
            one.stop_before(self._bound())
            if one.done:
                del active[name]

        while active:
            ended = await asyncio.gather(*(read(*item) for item in active.items()), return_exceptions=True)
            for error in ended:
                if error is not None:
                    raise error
        for name, one in windows.items():
            before = self.searched.get(name)
            if before is None or one.events > before.events:
                self.searched[name] = one.searched()
        for copies in self.copies.values():
            copies.sort(key=lambda copy: (copy.delivery.timestamp, copy.place))

    def _bound(self) -> float | None:
        """Return the time before which nothing more of this pass can lie; None if that is not known yet."""
        times = [self._since] if self._since is not None else []
        if all(id in self.copies for id in self._wanted | self._parents):
            found = [copy for id in self._wanted | self._parents for copy in self.copies[id]]
            created = [
                c.event.metadata.timestamp.timestamp() for c in found if c.event.event_id in self._wanted
            ]
            times.append(max(min([c.delivery.timestamp for c in found] + created) - _SLACK, 0.0))
        return max(times, default=None)

    def _visit(self, topic: str, delivery: Delivery) -> None:
        try:
            event = delivery.record.event
        except CodecError:
            return
        metadata = event.metadata
        event_id, cause = metadata.event_id, metadata.causation_id
        if cause in self._parents and cause != event_id:
            results = self.results.setdefault(cause, [])
            if event_id not in results:
                if len(self.copies) >= MOST:
                    self.more = True
                    return
                results.append(event_id)
        elif event_id not in self._wanted:
            return
        copies = self.copies.setdefault(event_id, [])
        place = topic, delivery.partition, delivery.offset
        if len(copies) < COPIES and place not in [copy.place for copy in copies]:
            copies.append(Copy(topic, delivery, event))


class _Windows:
    """The part of one topic that a pass reads, in windows from the newest to the oldest; one window if the ends are not known.

    Args:
        bus: an open bus.
        info: the topic.
        reach: how far to go.
        bound: the time before which nothing is of interest; None: not known.
    """

    def __init__(self, bus: EventBus, info: TopicInfo, reach: Reach, bound: float | None) -> None:
        self._bus = bus
        self._info = info
        self._reader = BackwardsReader(bus, info, PAGE, reach.last) if info.latest else None
        self._since = 0.0 if reach.since is None else reach.since.timestamp()
        self._start = StartAt.EARLIEST if bound is None else datetime.fromtimestamp(bound, UTC)
        self._oldest: float | None = None
        self._left_out = False
        self._read = False
        self.events = 0
        """The number of events that were read."""
        known = [info.records] if info.records is not None else []
        self.expected = min([*known, self._reader.offsets] if self._reader is not None else known, default=0)
        """The largest number of events to read, as far as it is known."""

    @property
    def done(self) -> bool:
        """Whether nothing is left to be read."""
        return self._read if self._reader is None else not self._reader.unread

    async def window(self) -> AsyncIterator[Sequence[Delivery]]:
        """Yield the next window in pages."""
        if self._reader is not None:
            async for page in self._reader.window():
                yield self._counted(page)
            return
        self._read = True
        async for delivery in read_all(self._bus.door, self._info.name, self._start):
            yield self._counted((delivery,))

    def _counted(self, page: Sequence[Delivery]) -> Sequence[Delivery]:
        kept = [delivery for delivery in page if delivery.timestamp >= self._since]
        self._left_out |= len(kept) < len(page)
        self.events += len(kept)
        times = [delivery.timestamp for delivery in kept]
        self._oldest = min(times if self._oldest is None else [self._oldest, *times], default=None)
        return kept

    def stop_before(self, bound: float | None) -> None:
        """Read nothing more of the partitions whose last window reached a time."""
        if self._reader is not None and bound is not None:
            for partition, oldest in self._reader.oldest.items():
                if oldest < bound:
                    self._reader.leave(partition)

    def searched(self) -> SearchedTopic:
        """Return what was read."""
        whole = self._start is StartAt.EARLIEST if self._reader is None else not self._reader.cut_off
        oldest = None if self._oldest is None else datetime.fromtimestamp(self._oldest, UTC).isoformat()
        return SearchedTopic(self._info.name, self.events, oldest, whole and self.done and not self._left_out)


def _is_searched(topic: str) -> bool:
    """Return whether events of users lie in a topic. Dead letters are copies, which are read in another way."""
    if topic.endswith(DEAD_LETTER_SUFFIX) or topic.startswith("__"):
        return False
    return not topic.startswith(OWN) or topic.startswith(REPLY_PREFIX)
