"""One subscription to several topics, given by name or by pattern: a stream for each topic, and a look at the list of topics.

The topics of a pattern are those that exist when the subscription is made, and those that are created later. A later one is
read from its oldest record on, so that nothing is missed between its creation and the next look.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from fnmatch import translate
from typing import Final

from dimesh.bus.door import Door
from dimesh.bus.topics import check_user_topic
from dimesh.capabilities import Capability
from dimesh.clock import Clock
from dimesh.errors import ConfigurationError, DimeshError, EventError, NotOfferedError
from dimesh.events.names import show
from dimesh.events.topics import DEAD_LETTER_SUFFIX
from dimesh.spi.bus import Start, StartAt
from dimesh.tasks import end_tasks

log = logging.getLogger("dimesh.bus")

_PATTERN: Final = re.compile(r"[A-Za-z0-9._*?-]{1,249}\Z")


class TopicSelection:
    """Topics by name and by pattern, in which ``*`` stands for any characters and ``?`` for one.

    Raises:
        EventError: a name or pattern is not acceptable, or there is none.
    """

    def __init__(self, topics: str | Sequence[str]) -> None:
        given = (topics,) if isinstance(topics, str) else tuple(topics)
        if not given:
            raise EventError("a subscription needs at least one topic")
        self.names = tuple(dict.fromkeys(check_user_topic(t) for t in given if not is_pattern(t)))
        self._patterns: list[tuple[str, re.Pattern[str]]] = []
        for pattern in given:
            if is_pattern(pattern):
                if not _PATTERN.match(pattern):
                    raise EventError(
                        f"{show(pattern)} cannot be a pattern for topics: use the characters of names, '*' and '?'"
                    )
                self._patterns.append((pattern, re.compile(translate(pattern))))
        self.text = ", ".join(given)

    @property
    def follows(self) -> bool:
        """Whether there is a pattern, so that topics may join later."""
        return bool(self._patterns)

    def wants(self, topic: str) -> bool:
        """Return whether a topic is one of them. Internal topics are not, and dead letters only if a pattern ends with
        ``.dlq``.
        """
        if topic in self.names:
            return True
        for text, pattern in self._patterns:
            if pattern.match(topic) and (
                not topic.endswith(DEAD_LETTER_SUFFIX) or text.endswith(DEAD_LETTER_SUFFIX)
            ):
                try:
                    check_user_topic(topic)
                except EventError:
                    return False
                return True
        return False


def is_pattern(topic: object) -> bool:
    """Return whether a topic is given by a pattern."""
    return isinstance(topic, str) and ("*" in topic or "?" in topic)


class TopicSet:
    """The streams of one subscription to several topics.

    Args:
        id: the id of the subscription; that of the stream of a topic is ``<id>@<topic>``.
        selection: the topics.
        group: the group; None: a lone subscription.
        door: where topics are listed.
        clock: for the interval.
        interval: seconds between two looks at the list.
        subscribe: opens the stream of one topic, given its id, topic and start, and whether it is paused at first.
        unsubscribe: closes a stream by its id.
        pause: pauses or resumes a stream, given its id and whether it is paused.
        runs: returns whether a stream is open, and has not ended because its topic was deleted.
    """

    def __init__(
        self,
        id: str,
        selection: TopicSelection,
        group: str | None,
        door: Door,
        clock: Clock,
        interval: float,
        subscribe: Callable[[str, str, Start | None, bool], Awaitable[str]],
        unsubscribe: Callable[[str], Awaitable[bool]],
        pause: Callable[[str, bool], None],
        runs: Callable[[str], bool],
    ) -> None:
        self.id = id
        self.selection = selection
        self.ids: dict[str, str] = {}
        """The id of the stream of each topic."""
        self.paused = False
        self._group = group
        self._door = door
        self._clock = clock
        self._interval = interval
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._pause = pause
        self._runs = runs
        self._task: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._closed = False

    async def open(self, reset: bool) -> None:
        """Open a stream for each topic that exists or is named, and start to follow the patterns.

        Raises:
            NotOfferedError: there is a pattern, and the backend cannot list topics or read them from the oldest record on.
            DimeshError: what a subscription raises; then no stream is left open.
        """
        known: set[str] = set()
        topics = list(self.selection.names)
        if self.selection.follows:
            capabilities = self._door.capabilities
            for needed in (Capability.TOPIC_ADMIN, Capability.LOOK_BACK):
                if needed not in capabilities:
                    raise NotOfferedError(
                        f"the {self._door.name} bus does not offer {needed.value}, so it has no subscriptions by pattern: name "
                        "the topics"
                    )
            topics += [
                t.name
                for t in await self._door.topics()
                if t.name not in topics and self.selection.wants(t.name)
            ]
            if self._group is not None and not reset:
                known = {
                    g.topic for g in await self._door.groups() if g.group == self._group and g.topic in topics
                }
        try:
            for topic in topics:
                # A group that was here before has missed the topics that were created since.
                missed = bool(known) and topic not in known and topic not in self.selection.names
                await self._add(topic, StartAt.EARLIEST if missed else None)
        except BaseException:
            await self.close()
            raise
        if self.selection.follows:
            self._task = asyncio.create_task(self._follow(), name=f"dimesh-topics-{self.id}")

    def pause(self, paused: bool) -> None:
        """Pause or resume all streams, and those that join later."""
        self.paused = paused
        for id in self.ids.values():
            self._pause(id, paused)

    async def see(self, topic: str) -> None:
        """Open a stream for a topic that is about to be created here, if it is one of these."""
        if self.selection.wants(topic):
            try:
                await self._add(topic, StartAt.EARLIEST)
            except DimeshError as error:
                log.warning("subscription %s: topic %s cannot be read yet: %s", self.id, topic, error)

    def stop(self) -> None:
        """Follow the patterns no longer."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Close all streams."""
        self.stop()
        if self._task is not None:
            await end_tasks((self._task,))
        await asyncio.gather(*(self._unsubscribe(id) for id in tuple(self.ids.values())))
        self.ids.clear()

    async def _add(self, topic: str, start: Start | None) -> None:
        async with self._lock:
            if topic in self.ids or self._closed:
                return
            paused = self.paused
            self.ids[topic] = id = await self._subscribe(f"{self.id}@{topic}", topic, start, paused)
            if self.paused is not paused:  # changed meanwhile
                self._pause(id, self.paused)

    async def _follow(self) -> None:
        while True:
            await self._clock.sleep(self._interval)
            try:
                present = {t.name for t in await self._door.topics()}
                for topic, id in tuple(self.ids.items()):
                    if not self._runs(id) and topic not in self.selection.names:
                        log.info("subscription %s: topic %s was deleted", self.id, topic)
                        del self.ids[topic]
                        await self._unsubscribe(id)
                for topic in sorted(present):
                    if topic not in self.ids and self.selection.wants(topic):
                        await self._add(topic, StartAt.EARLIEST)
                        log.info("subscription %s: topic %s joins", self.id, topic)
            except DimeshError as error:
                log.warning(
                    "subscription %s: topics cannot be followed, next look in %g s: %s",
                    self.id,
                    self._interval,
                    error,
                )


def check_produce_to(selection: TopicSelection, produce_to: str | None) -> None:
    """Refuse a subscription that would read what it produces.

    Raises:
        ConfigurationError: the topic for results is one of those that are read.
    """
    if produce_to is not None and selection.wants(produce_to):
        raise ConfigurationError(
            f"produce_to {produce_to!r} is one of the topics {selection.text}: that would go round for ever"
        )
