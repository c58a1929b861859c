"""The event bus: one engine over any backend. All semantics live here and in this package."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import warnings
import weakref
from asyncio import get_running_loop
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self

from dimesh.bus.deadletter_writer import DeadLetterWriter
from dimesh.bus.door import UNNAMED, Door, Operation, check_user_headers
from dimesh.bus.handler import EventHandler, Middleware
from dimesh.bus.interceptors import Interceptors
from dimesh.bus.observer import BusObserver, observer_failed
from dimesh.bus.options import SubscriptionOptions, SubscriptionStats
from dimesh.bus.outgoing import Outgoing, check_event, check_key, sender_key
from dimesh.bus.patterns import TopicSelection, is_pattern
from dimesh.bus.redelivery import Redelivery
from dimesh.bus.replies import Replies
from dimesh.bus.requests import Requests
from dimesh.bus.schema_cache import SchemaSource
from dimesh.bus.schema_rules import SchemaRule
from dimesh.bus.schemas import SchemaCheck
from dimesh.bus.services import Services
from dimesh.bus.status import StatusWriter
from dimesh.bus.subscription import Subscription
from dimesh.bus.subscriptions import Subscriptions, Terms
from dimesh.bus.sync import SyncBus
from dimesh.bus.topics import TopicRules
from dimesh.capabilities import Capabilities
from dimesh.clock import Clock, SystemClock
from dimesh.errors import BusClosedError, BusError, ConfigurationError, EventError
from dimesh.events.event import Event
from dimesh.events.fields import NO_HEADERS
from dimesh.events.metadata import check_text
from dimesh.events.names import check_group
from dimesh.spi.bus import DEFAULT_TIMEOUT, BusBackend, Record, Start, StartAt
from dimesh.spi.interceptor import Interceptor
from dimesh.spi.receipt import Receipt
from dimesh.tasks import finish

log = logging.getLogger("dimesh.bus")

DRAIN_TIMEOUT: Final = 10.0


class EventBus:
    """Publishes events and calls handlers. Made by :class:`EventBusFactory`; opens its backend at first use.

    Args:
        backend: moves and keeps the records. From now on only the door of this bus uses it.
        clock: time; tests inject their own.
        seed: makes the jitter of retries repeatable.
        consumer_group: the group of subscriptions that name neither a group nor themselves.
        ordering_key: the rule for the ordering key of events published without one.
        registry: a schema registry; payloads are checked at publish and before each handler, inside all interceptors.
        schemas: the rules of the check, see :class:`~dimesh.bus.schema_rules.SchemaRule`; the first one that names a topic
            counts. By default every topic is checked against the subjects ``event.<type>``: a publish that fails is rejected,
            and an event that fails before a handler is dead-lettered.
        interceptors: wrap every publish and every handling, the first one outermost; see
            :mod:`dimesh.spi.interceptor`.
        observer: is notified of what happened (the plugin manager).
        principal: who publishes, reads and administers through this bus.
        publish_timeout: seconds that a publish waits for room.
        drain_timeout: seconds that closing waits for handlers.
        create_topics: whether a topic that does not exist is created at its first use; otherwise it is refused. The engine's
            own topics, such as those of dead letters, are created in any case.
    """

    def __init__(
        self,
        backend: BusBackend,
        *,
        clock: Clock | None = None,
        seed: int | None = None,
        consumer_group: str | None = None,
        ordering_key: Callable[[Event], str] = sender_key,
        registry: SchemaSource | None = None,
        schemas: Sequence[SchemaRule] | None = None,
        interceptors: Sequence[Interceptor] = (),
        observer: BusObserver | None = None,
        principal: str = UNNAMED,
        publish_timeout: float = DEFAULT_TIMEOUT,
        drain_timeout: float = DRAIN_TIMEOUT,
        create_topics: bool = True,
    ) -> None:
        self._door = Door(backend, principal)
        self.clock: Clock = clock or SystemClock()
        self._observer = observer
        self._ordering_key = ordering_key
        self._consumer_group = None if consumer_group is None else check_group(consumer_group)
        self._publish_timeout = publish_timeout
        self._drain_timeout = drain_timeout
        if schemas is not None and registry is None:
            raise ConfigurationError("rules for schemas need a registry: give one, too")
        rules = (SchemaRule(),) if schemas is None else tuple(schemas)
        check = None if registry is None else SchemaCheck(registry, self.clock, rules)
        self._check = check
        around = Interceptors(interceptors if check is None else (*interceptors, check))
        self._outgoing = Outgoing(
            self._door, self.clock, ordering_key, around, observer, publish_timeout, check
        )
        self._direct = not around.publishing and check is None
        self._append = self._door.appender(Operation.PUBLISH)
        replies = Replies(self._outgoing)
        self._services = Services(
            self._door,
            self.clock,
            random.Random(seed),  # noqa: S311 - jitter
            observer,
            around,
            self._outgoing,
            DeadLetterWriter(self._door, replies, observer, publish_timeout),
            Redelivery(self._door, self.clock, publish_timeout),
            replies,
            asyncio.Lock(),
            StatusWriter(self._door),
        )
        self._topics = TopicRules(self._door, create_topics)
        self._admitted = self._topics.admitted
        self._subscriptions = Subscriptions(
            self._door, self._services, self._topics, self._consumer_group, drain_timeout
        )
        self._requests = Requests(
            self._door, self._outgoing, self.clock, self._listen, self.unsubscribe, lambda: self._closed
        )
        self._home: asyncio.AbstractEventLoop | None = None
        """The event loop that the bus belongs to: the first one in which it was used."""
        self._loop: asyncio.AbstractEventLoop | None = None
        """The same while the bus is open; None otherwise. One comparison decides on the hot path."""
        self._opening: asyncio.Task[None] | None = None
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        self._sync: SyncBus | None = None
        self._forgotten: weakref.finalize[..., EventBus] | None = None

    # -- life ------------------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the backend."""
        return self._door.capabilities

    @property
    def door(self) -> Door:
        """The door to the backend, for what this class does not offer.

        Raises:
            BusError: this is another event loop than the one of the bus.
        """
        self._check_loop()
        return self._door

    @property
    def sync(self) -> SyncBus:
        """This bus for plain functions in other threads, such as handlers that are plain functions.

        Raises:
            BusError: the bus is not open.
        """
        if self._loop is None:
            raise BusError(
                "the bus is not open: open it first, or make a SyncBus of it, which opens it in a thread"
            )
        if self._sync is None:
            self._sync = SyncBus(self, loop=self._loop)
        return self._sync

    @property
    def schema_counts(self) -> Mapping[tuple[str, str, str], int]:
        """The number of events that failed the check of their schema, by topic, stage (``publish`` or ``consume``) and outcome
        (``rejected``, ``dead-lettered``, ``warned``, or ``unchecked`` for want of a schema).
        """
        return {} if self._check is None else self._check.reports.counts

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    async def open(self) -> None:
        """Connect now instead of at first use.

        Raises:
            StorageError, BusError: the backend cannot be opened.
        """
        if self._closed:
            raise BusClosedError("the bus is closed; make a new one")
        self._enter()
        if self._loop is not None:
            return
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._door.open())
        try:
            await asyncio.shield(self._opening)
        except BaseException:
            if self._opening is not None and self._opening.done():
                self._opening = self._home = None  # another attempt may be in another event loop
            raise
        if self._forgotten is None:
            self._forgotten = weakref.finalize(
                self, _warn_of_forgotten_close, self._door.name, self._door.path, os.getpid()
            )
        if not self._closed:
            self._loop = self._home

    async def close(self, timeout: float | None = None) -> None:
        """Drain and leave: handlers finish what they have, positions are committed, the backend is closed.

        A batch that is filling is handed over at once. Each step has a bound: a handler or a plugin that swallows its
        cancellation, or never returns, is left behind with a warning in the log that names the place where it hangs.
        May be called twice. Called inside a handler of this bus (or in a task or thread of a handler that still runs), it
        returns at once, since it would wait for itself: the bus takes no more calls, and closes when the handler has returned.

        Args:
            timeout: the seconds that handlers get to finish; by default the ``drain_timeout`` of the bus.
        """
        self._enter()
        if self._closing is None:
            self._closed = True
            self._loop = None
            self._closing = asyncio.create_task(
                self._close(self._drain_timeout if timeout is None else timeout), name="dimesh-bus-close"
            )
        if not any(subscription.calls_us for subscription in self._subscriptions.everything):
            await asyncio.shield(self._closing)

    async def _close(self, timeout: float) -> None:
        if self._forgotten is not None:
            self._forgotten.detach()
        try:
            if self._opening is not None and not self._opening.done():
                await finish(asyncio.wait([self._opening]), "opening the bus")
            await self._subscriptions.close_all(timeout)
            await finish(self._requests.close(), "deleting the reply topic")
            await finish(self._services.status.close(), "writing the states of subscriptions")
        finally:
            self._subscriptions.open.clear()
            await finish(self._door.close(), f"closing the {self._door.name} bus")

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- publishing ------------------------------------------------------------------------------

    async def publish(
        self,
        topic: str,
        event: Event,
        *,
        key: str | None = None,
        delay: float | timedelta | None = None,
        deliver_at: datetime | None = None,
        timeout: float | None = None,
    ) -> Receipt:
        """Publish one event; return when the backend has it, as durably as it promises.

        Args:
            topic: created if it does not exist, unless the bus has ``create_topics=False``.
            event: the event. Names of its headers must not begin with ``dimesh-``.
            key: ordering key; by default the bus's rule (``<pillar>:<agent>`` of the sender).
            delay: deliver only after this time (seconds or a timedelta).
            deliver_at: deliver only at or after this aware time.
            timeout: seconds to wait for room in a full buffer; 0: do not wait.

        Raises:
            EventError: the topic's name, the key or a header is not acceptable, or the topic is not for users.
            TopicNotFoundError: there is no such topic, and the bus creates none.
            SchemaValidationError: the registry has a schema for this type, and the payload does not satisfy it.
            BackpressureError: no room within ``timeout``.
            PublishError, StorageError: not acknowledged; publishing the same event again is safe.
            BusClosedError: the bus is closed.
        """
        if get_running_loop() is not self._loop:
            await self._ensure_open()
        if topic not in self._admitted:
            await self._admit(topic)
        if event.__class__ is not Event:  # what the types forbid, callers still do
            check_event(event)  # type: ignore[unreachable]
        if not self._direct or self._ordering_key is not sender_key:
            due = self._outgoing.due(delay, deliver_at)
            keys = None if key is None else (check_key(key),)
            (receipt,) = await self._outgoing.publish(
                topic, (event,), keys=keys, deliver_at=due, timeout=timeout
            )
            return receipt
        # From here on it is the same as Outgoing.publish, spelled out: the calls are half of what an event costs otherwise.
        if event.headers is not NO_HEADERS:
            check_user_headers(event.headers)
        metadata = event.metadata
        pillar = metadata.source_pillar
        record = Record(
            f"{pillar}:{metadata.source_agent}" if key is None else check_key(key),
            event._event_type,
            pillar,
            metadata.priority._value_,
            event.data,
            None if delay is None and deliver_at is None else self._outgoing.due(delay, deliver_at),
            event,
        )
        positions = await self._append(
            topic, (record,), timeout=self._publish_timeout if timeout is None else timeout
        )
        receipt = Receipt(topic, metadata.event_id, positions[0])
        observer = self._observer
        if observer is not None and observer.observes_published:
            try:
                observer.published(topic, event, receipt)
            except (Exception, SystemExit) as failed:  # the event is published all the same
                observer_failed(failed)
        return receipt

    async def publish_many(
        self,
        topic: str,
        events: Sequence[Event],
        *,
        key: str | None = None,
        keys: Sequence[str] | None = None,
        timeout: float | None = None,
        state: Mapping[str, bytes] | None = None,
    ) -> list[Receipt]:
        """Publish events in order.

        Args:
            topic: created if it does not exist, unless the bus has ``create_topics=False``.
            events: the events.
            key: one ordering key for all; by default each event's own.
            keys: an ordering key for each event.
            timeout: seconds to wait for room in a full buffer; 0: do not wait.
            state: values to store in the same transaction, where the backend offers ``atomic-state``.

        Raises:
            What :meth:`publish` raises; then none of them was published, except after a PublishError: then any of
                them may have been. Publishing all of them again is safe.
        """
        if get_running_loop() is not self._loop:
            await self._ensure_open()
        await self._admit(topic)
        if not events and not state:
            return []
        for name in state or ():
            check_text("state key", name)
        for event in events:
            if event.__class__ is not Event:
                check_event(event)  # type: ignore[unreachable]
        if keys is not None:
            if len(keys) != len(events):
                raise EventError(f"{len(keys)} ordering keys for {len(events)} events: give one for each")
            keys = [check_key(own) for own in keys]
        elif key is not None:
            keys = [check_key(key)] * len(events)
        return await self._outgoing.publish(topic, events, keys=keys, timeout=timeout, state=state)

    async def request(
        self, topic: str, event: Event, *, timeout: float = 30.0, key: str | None = None
    ) -> Event:
        """Publish a request and wait for the reply: what the handler returned, as an event.

        After a time-out the same event can be requested again: a handler that has handled it already is not called again as long
        as its subscription remembers the reply (the last 1,000 replies, at most 8 MiB), which is sent once more. Several calls
        at once with the same event and topic share the first reply. A handler of batches replies with None.

        Args:
            topic: where a handler is subscribed that returns the reply.
            event: the request.
            timeout: seconds to wait, at most 12 hours.
            key: ordering key; by default the bus's rule.

        Raises:
            What :meth:`publish` raises.
            RequestTimeoutError: no reply within ``timeout`` seconds.
            RemoteError: the handler failed for good, or what it returned cannot be sent; the message is the reason.
        """
        await self._ensure_open()
        await self._admit(topic)
        check_event(event)
        return await self._requests.request(topic, event, timeout, None if key is None else check_key(key))

    # -- subscribing -----------------------------------------------------------------------------

    async def subscribe(
        self,
        topic: str | Sequence[str],
        handler: EventHandler | Callable[..., Any],
        subscription_id: str | None = None,
        *,
        group: str | None = None,
        start: Start = StartAt.LATEST,
        reset: bool = False,
        produce_to: str | None = None,
        alone: bool = False,
        options: SubscriptionOptions | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> str:
        """Call ``handler`` for the events of ``topic``. Returns the subscription's id.

        Args:
            topic: created if it does not exist, unless the bus has ``create_topics=False``. Or several topics, or patterns such
                as ``orders.*``: see :mod:`dimesh.bus.patterns`. Each topic then has lanes, limits and :meth:`stats` of its
                own, as ``<id>@<topic>``; the id that is returned stands for all of them.
            handler: an EventHandler, or a function without filters.
            subscription_id: names the subscription; one that is given is also the group, unless ``group`` is.
            group: subscriptions with one group share the events and continue where the group was. Without a group (and
                without an id or the bus's ``consumer_group``) the subscription is alone, gets every event from ``start`` on, and
                keeps no position.
            start: where a new group, or a lone subscription, starts: the latest event, the earliest, a time, or offsets by
                partition.
            reset: start at ``start`` even if the group has a position.
            produce_to: a topic for what the handler returns (an event, several, or None). Where the backend states
                ``transactions``, the events and the position of what was handled take effect together, so that each
                event is answered once, whatever crashes; otherwise the events are published first and may be repeated.
            alone: without a group, whatever the id and the bus's ``consumer_group`` are.
            options: concurrency, retries, circuit breaker, rate, time limits, de-duplication.
            middleware: wraps the handler of this subscription, inside the interceptors of the bus; the first is the outermost.

        Raises:
            EventError: a name is not acceptable.
            ConfigurationError: an option is not acceptable, or the id is taken on this bus.
            NotOfferedError: the backend cannot start there, cannot deliver again later, or has no patterns.
        """
        await self._ensure_open()
        terms = Terms(
            handler, group, start, reset, produce_to, alone, options or SubscriptionOptions(), middleware
        )
        if is_pattern(topic) or (isinstance(topic, Sequence) and not isinstance(topic, (str, bytes))):
            return await self._subscriptions.subscribe_several(TopicSelection(topic), subscription_id, terms)
        await self._topics.admit(topic)
        return await self._subscriptions.subscribe(topic, subscription_id, terms)

    async def unsubscribe(self, subscription_id: str) -> bool:
        """Drain and close one subscription; return False if there is none with that id.

        It takes as long as :meth:`close` at most. Called inside a handler of that subscription, it returns at once, and the
        subscription closes when the handler has returned.
        """
        self._enter()
        return await self._subscriptions.close(subscription_id)

    def pause(self, subscription_id: str) -> None:
        """Start no more calls of a subscription's handler until :meth:`resume`. Running calls finish.

        The subscription keeps its partitions; it reads on until ``max_in_flight`` events wait. Closing it does not wait for
        them: the next member of the group gets them. :meth:`idle` waits for the end of the pause.

        Raises:
            ConfigurationError: no open subscription has that id.
        """
        self._check_loop()
        self._subscriptions.set_paused(subscription_id, True)

    def resume(self, subscription_id: str) -> None:
        """End a pause, where the order of each key continues. Does nothing if there is none.

        Raises:
            ConfigurationError: no open subscription has that id.
        """
        self._check_loop()
        self._subscriptions.set_paused(subscription_id, False)

    def stats(self) -> dict[str, SubscriptionStats]:
        """Return the counters of each subscription by its id."""
        return {name: subscription.stats for name, subscription in self._subscriptions.open.items()}

    def subscription(self, subscription_id: str) -> Subscription:
        """Return an open subscription.

        Raises:
            ConfigurationError: no open subscription has that id.
            BusError: this is another event loop than the one of the bus.
        """
        self._check_loop()
        return self._subscriptions.get(subscription_id)

    async def idle(self) -> None:
        """Wait until every open subscription has handled what was published before the call."""
        self._enter()
        for subscription in tuple(self._subscriptions.open.values()):
            await subscription.caught_up()

    async def _listen(self, topic: str, receive: Callable[[Event], Any]) -> Subscription:
        terms = Terms(
            EventHandler(receive, name="dimesh.replies"),
            group=None,
            start=StartAt.LATEST,
            reset=False,
            produce_to=None,
            alone=True,
            options=SubscriptionOptions(handler_timeout=None, dedup_window=0),
            middleware=(),
        )
        name = await self._subscriptions.subscribe(topic, None, terms)
        return self._subscriptions.get(name)

    async def _admit(self, topic: str) -> None:
        """Check the topic of a publish. Subscriptions by pattern open their streams before its first event."""
        if topic in self._admitted:
            return
        await self._topics.admit(topic)
        await self._subscriptions.see(topic)

    def admit_own_topic(self, topic: str) -> None:
        """Let this bus publish and subscribe to one of dimesh's own topics, for an engine above the bus."""
        self._topics.admit_own(topic)

    async def _ensure_open(self) -> None:
        if self._closed:
            raise BusClosedError("the bus is closed; make a new one")
        if self._loop is None:
            await self.open()
        else:
            self._enter()

    def _enter(self) -> None:
        """Make the running event loop that of the bus, or refuse another one before anything is done.

        Raises:
            BusError: this is another event loop than the one of the bus.
        """
        if self._home is None:
            self._home = get_running_loop()
        else:
            self._check_loop()

    def _check_loop(self) -> None:
        home = self._home
        running = asyncio._get_running_loop()
        if home is not None and running is not None and running is not home:
            raise BusError(
                f"this bus belongs to another event loop{' (closed)' if home.is_closed() else ''} than the one that runs here "
                f"(thread {threading.current_thread().name!r}); nothing was done. Make a bus for each event loop and close it "
                "there, or call bus.sync, a SyncBus, from a thread without one"
            )


def _warn_of_forgotten_close(name: str, path: str | None, pid: int) -> None:
    if pid != os.getpid():
        return  # a forked process has a copy of the object, and nothing to close
    where = name if path is None else f"{name}, {path}"
    warnings.warn(
        f"an event bus ({where}) was open when it was garbage-collected, or when the program ended: await bus.close(), or "
        "use 'async with'. Positions that were not committed are handled again",
        ResourceWarning,
        stacklevel=2,
    )
