"""Requests over the bus: a request names the topic on which its sender listens for the reply.

Reply topics go away. A bus makes one at its first request, replaces it after six hours, and deletes it when no request waits
there any more, or when the bus is closed. The name states when the topic was made: whoever makes one deletes those that are
older than a day, whose buses died without closing.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final

from dimesh.bus import headers as h
from dimesh.bus.door import Door, Operation, without_engine_headers
from dimesh.bus.outgoing import Outgoing
from dimesh.bus.replies import REPLY_PREFIX
from dimesh.bus.subscription import Subscription
from dimesh.bus.topics import bounded_topic
from dimesh.capabilities import Capability
from dimesh.clock import Clock
from dimesh.errors import BusClosedError, BusError, ConfigurationError, DimeshError, RequestTimeoutError
from dimesh.events.event import Event
from dimesh.events.ids import new_event_id
from dimesh.tasks import end_tasks

log = logging.getLogger("dimesh.bus")

REPLY_RETENTION: Final = 3_600.0
"""The seconds after which replies may be removed that nobody fetched."""
ROTATION: Final = 6 * 3_600.0
"""The age, in seconds, at which a reply topic gets no new requests."""
LONGEST_WAIT: Final = 12 * 3_600.0
"""The longest time-out of a request, in seconds."""
LEASE: Final = 24 * 3_600.0
"""The age, in seconds, at which a reply topic belongs to a bus that died. It leaves six hours for clocks that differ."""
_SWEPT: Final = 1_000
"""The largest number of topics that are deleted at once."""
_NAME: Final = re.compile(
    re.escape(REPLY_PREFIX) + r"([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f]{3}-[0-9a-f-]{17}\Z"
)

Listen = Callable[[str, Callable[[Event], Awaitable[None]]], Awaitable[Subscription]]
"""Subscribes a function to a topic, alone and from now on."""


class RemoteError(BusError):
    """The handler of a request failed for good; the message is the reason of its dead letter."""


def made_at(topic: str) -> float | None:
    """Return when a reply topic was made, in epoch seconds; None if the name is not one of a reply topic."""
    found = _NAME.match(topic)
    return None if found is None else int(found[1] + found[2], 16) / 1_000


class Inbox:
    """A reply topic, with the requests that wait for their replies there."""

    def __init__(self, topic: str, made: float) -> None:
        self.topic = topic
        self.made = made
        self.ready: asyncio.Task[None] | None = None
        self.subscription: Subscription | None = None
        self.waiting: dict[str, list[tuple[str, asyncio.Future[Event]]]] = {}
        """By the id of the request: the topic that it was sent to, and the future of its reply."""
        self.users = 0
        """The number of requests that use the topic."""

    @property
    def ended(self) -> bool:
        """Whether the topic was deleted by somebody else."""
        return self.subscription is not None and self.subscription.finished.done()

    async def receive(self, reply: Event) -> None:
        """Give a reply to all requests that it answers."""
        asked = reply.headers.get(h.REPLY_FOR)
        for topic, future in self.waiting.get(reply.metadata.correlation_id or "", ()):
            # Without the header, the reply is of an earlier version of dimesh.
            if asked in (None, topic) and not future.done():
                future.set_result(reply)


class Requests:
    """The requests of one bus that wait for their replies.

    Args:
        door: creates and deletes reply topics.
        outgoing: publishes requests.
        clock: for time-outs and the age of topics.
        listen: subscribes to a reply topic.
        leave: ends that subscription.
        closed: whether the bus is closed.
    """

    def __init__(
        self,
        door: Door,
        outgoing: Outgoing,
        clock: Clock,
        listen: Listen,
        leave: Callable[[str], Awaitable[object]],
        closed: Callable[[], bool],
    ) -> None:
        self._door = door
        self._outgoing = outgoing
        self._clock = clock
        self._listen = listen
        self._leave = leave
        self._closed = closed
        self._current: Inbox | None = None
        self._inboxes: set[Inbox] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def request(self, topic: str, event: Event, timeout: float, key: str | None) -> Event:
        """Publish ``event`` and return the first reply. Several calls at once with one event share the reply.

        Raises:
            RequestTimeoutError: no reply came in time.
            RemoteError: the handler failed for good, or its reply cannot be sent.
            ConfigurationError: the time-out is out of range.
        """
        if not 0 <= timeout <= LONGEST_WAIT:
            raise ConfigurationError(
                "the timeout of a request must be between 0 and 12 hours; publish an event and subscribe to the result to wait "
                "for longer"
            )
        inbox = self._inbox()
        inbox.users += 1
        correlation = event.metadata.event_id
        future: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        entry = (topic, future)
        timer = self._clock.call_later(timeout, lambda: future.done() or future.cancel())
        try:
            await self._listening(inbox)
            inbox.waiting.setdefault(correlation, []).append(entry)
            await self._outgoing.publish(
                topic,
                (event,),
                operation=Operation.REQUEST,
                keys=None if key is None else (key,),
                headers={h.REPLY_TO: inbox.topic, h.REPLY_FOR: topic},
            )
            reply = await future
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            if self._closed():
                raise BusClosedError("the bus was closed while a request waited for its reply") from None
            raise RequestTimeoutError(
                f"no reply to {event.event_type.value} on {topic!r} within {timeout:g} s: is a handler subscribed "
                "there, and does it return a value?"
            ) from None
        finally:
            timer.cancel()
            waiting = inbox.waiting.get(correlation)
            if waiting is not None and entry in waiting:
                waiting.remove(entry)
                if not waiting:
                    del inbox.waiting[correlation]
            inbox.users -= 1
            self._retire(inbox)
        error = reply.headers.get(h.REPLY_ERROR)
        if error is not None:
            raise RemoteError(str(error))
        return without_engine_headers(reply)

    # -- reply topics ----------------------------------------------------------------------------

    def _inbox(self) -> Inbox:
        """Return the inbox for a new request."""
        now = self._clock.time()
        current = self._current
        if current is None or current.ended or not -ROTATION < now - current.made < ROTATION:
            name = REPLY_PREFIX + new_event_id(lambda: int(now * 1e9))
            self._current = Inbox(name, now)
            self._inboxes.add(self._current)
            if current is not None:
                self._retire(current)
        assert self._current is not None
        return self._current

    async def _listening(self, inbox: Inbox) -> None:
        if inbox.ready is None:
            inbox.ready = asyncio.create_task(self._start(inbox), name="dimesh-reply-topic")
        try:
            await asyncio.shield(inbox.ready)
        except BaseException:
            if inbox.ready is not None and inbox.ready.done():
                inbox.ready = None
            raise

    async def _start(self, inbox: Inbox) -> None:
        await self._door.create_topic(inbox.topic, bounded_topic(self._door.capabilities, REPLY_RETENTION))
        inbox.subscription = await self._listen(inbox.topic, inbox.receive)
        if Capability.TOPIC_ADMIN in self._door.capabilities:
            self._later(self.sweep())

    def _retire(self, inbox: Inbox) -> None:
        """Delete the topic of an inbox that nobody uses any more."""
        if inbox is not self._current and not inbox.users and inbox in self._inboxes and not self._closed():
            self._inboxes.discard(inbox)
            self._later(self._remove(inbox))

    async def _remove(self, inbox: Inbox) -> None:
        if inbox.ready is None:
            return
        if inbox.subscription is not None:
            await self._leave(inbox.subscription.spec.id)
        await self._delete(inbox.topic)

    async def _delete(self, topic: str) -> None:
        try:
            await self._door.delete_topic(topic)
        except DimeshError as error:  # gone already, or not permitted; a sweep tries again
            log.debug("reply topic %s was not deleted: %s", topic, error)

    async def sweep(self) -> None:
        """Delete the reply topics of buses that died without closing: those older than a day, by their names."""
        try:
            names = [info.name for info in await self._door.topics()]
        except DimeshError as error:
            log.debug("reply topics were not listed: %s", error)
            return
        now = self._clock.time()
        old = [name for name in names if (made := made_at(name)) is not None and now - made > LEASE]
        for name in old[:_SWEPT]:
            await self._delete(name)

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name="dimesh-reply-topics")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up the requests that wait, and delete the reply topics. The bus has ended their subscriptions."""
        for inbox in self._inboxes:
            for waiting in inbox.waiting.values():
                for _, future in waiting:
                    if not future.done():
                        future.cancel()
        await end_tasks(self._tasks)
        for inbox in self._inboxes:
            if inbox.ready is not None and inbox.ready.done():
                await self._delete(inbox.topic)
