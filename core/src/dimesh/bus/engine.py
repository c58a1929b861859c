"""The event bus: one engine over any backend. All semantics live here and in this package."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self

from dimesh.bus import headers as h
from dimesh.bus.deadletter import Failure, dead_letter
from dimesh.bus.handler import EventHandler, Middleware, as_handler
from dimesh.bus.observer import BusObserver
from dimesh.bus.options import SubscriptionOptions, SubscriptionStats
from dimesh.bus.receipt import Receipt
from dimesh.bus.requests import Requests, reply_to
from dimesh.bus.schemas import SchemaGate, ValidatorSource
from dimesh.bus.subscription import Subscription
from dimesh.capabilities import Capabilities, Capability
from dimesh.clock import Clock, SystemClock
from dimesh.errors import (
    BusClosedError,
    ConfigurationError,
    DimeshError,
    EventError,
    NotOfferedError,
    TopicNotFoundError,
)
from dimesh.events.event import Event
from dimesh.events.ids import new_event_id
from dimesh.events.metadata import MAX_FIELD, check_text
from dimesh.events.names import KNOWN_TOPICS, check_group, check_topic
from dimesh.events.topics import DEAD_LETTER_SUFFIX, dead_letter_topic
from dimesh.spi.bus import DEFAULT_TIMEOUT, BusBackend, Delivery, Record, Start, StartAt, TopicConfig

log = logging.getLogger("dimesh.bus")

DRAIN_TIMEOUT: Final = 10.0
DEAD_LETTERS_KEPT: Final = 100_000
"""Records of a dead-letter topic that does not exist yet, where the backend counts; change it with ``create_topic``
beforehand or later."""
DEAD_LETTERS_KEPT_FOR: Final = 30 * 86_400.0
"""Seconds, where it removes by age alone."""


def sender_key(event: Event) -> str:
    """The default ordering rule: one sending agent's events stay in order."""
    return event.metadata.ordering_key


class EventBus:
    """Publishes events and calls handlers. Made by :class:`EventBusFactory`; opens its backend at first use.

    Args:
        backend: moves and keeps the records.
        clock: time; tests hand in their own.
        seed: makes the jitter of retries repeatable.
        consumer_group: the group of subscriptions that name neither a group nor themselves.
        ordering_key: the rule for the ordering key of events published without one.
        registry: a schema registry; payloads are checked against subject ``event.<type>`` at publish and before
            each handler.
        observer: is told what happened (the plugin manager).
        drain_timeout: seconds that closing waits for handlers.
    """

    def __init__(
        self,
        backend: BusBackend,
        *,
        clock: Clock | None = None,
        seed: int | None = None,
        consumer_group: str | None = None,
        ordering_key: Callable[[Event], str] = sender_key,
        registry: ValidatorSource | None = None,
        observer: BusObserver | None = None,
        publish_timeout: float = DEFAULT_TIMEOUT,
        drain_timeout: float = DRAIN_TIMEOUT,
    ) -> None:
        self.backend = backend
        self.clock: Clock = clock or SystemClock()
        self.rng = random.Random(seed)  # noqa: S311 - jitter
        self.observer = observer
        self.schema_gate = SchemaGate(registry, self.clock) if registry is not None else None
        self._ordering_key = ordering_key
        self._consumer_group = None if consumer_group is None else check_group(consumer_group)
        self._publish_timeout = publish_timeout
        self._drain_timeout = drain_timeout
        self._subscriptions: dict[str, Subscription] = {}
        self._dead_letter_topics: set[str] = set()
        self._requests = Requests(self)
        self._opening: asyncio.Task[None] | None = None
        self._open = False
        self._closed = False
        self._closing: asyncio.Task[None] | None = None

    # -- life ------------------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        """What the backend can do."""
        return self.backend.capabilities

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    async def open(self) -> None:
        """Connect now instead of at first use.

        Raises:
            StorageError, BusError: what the backend says.
        """
        if self._closed:
            raise BusClosedError("the bus is closed; make a new one")
        if self._open:
            return
        if self._opening is None:
            self._opening = asyncio.create_task(self.backend.open(), name="dimesh-bus-open")
        try:
            await asyncio.shield(self._opening)
        except BaseException:
            if self._opening is not None and self._opening.done():
                self._opening = None
            raise
        self._open = True

    async def close(self, timeout: float | None = None) -> None:
        """Drain and leave: handlers finish what they have (``timeout`` seconds, by default the bus's
        ``drain_timeout``), positions are committed, the backend is closed. May be called twice.
        """
        if self._closing is None:
            self._closed = True
            self._closing = asyncio.create_task(
                self._close(self._drain_timeout if timeout is None else timeout), name="dimesh-bus-close"
            )
        await asyncio.shield(self._closing)

    async def _close(self, timeout: float) -> None:
        if self._opening is not None and not self._opening.done():
            await asyncio.wait([self._opening])
        results = await asyncio.gather(
            *(subscription.stop(timeout) for subscription in tuple(self._subscriptions.values())),
            return_exceptions=True,
        )
        self._subscriptions.clear()
        for result in results:
            if isinstance(result, BaseException):
                log.warning("a subscription did not close well", exc_info=result)
        await self._requests.close()
        await self.backend.close()

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
        """Publish one event; returns when the backend has it, as durably as it promises.

        Args:
            topic: made if it does not exist.
            event: the event.
            key: ordering key; by default the bus's rule (``<pillar>:<agent>`` of the sender).
            delay: deliver only after this time (seconds or a timedelta).
            deliver_at: deliver only at or after this aware time.
            timeout: seconds to wait for room in a full buffer; 0: do not wait.

        Raises:
            EventError: the topic's name or the key cannot be.
            SchemaValidationError: the registry has a schema for this type, and the payload does not satisfy it.
            BackpressureError: no room within ``timeout``.
            PublishError, StorageError: not acknowledged; publishing the same event again is safe.
            BusClosedError: the bus is closed.
        """
        if not self._open or self._closed:
            await self._ensure_open()
        if topic not in KNOWN_TOPICS:
            check_topic(topic)
        if event.__class__ is not Event:  # what the types forbid, callers still do
            _check_event(event)  # type: ignore[unreachable]
        if key is None:
            if self._ordering_key is sender_key:  # spelled out: it is half of what an event costs otherwise
                metadata = event.metadata
                key = f"{metadata.source_pillar}:{metadata.source_agent}"
            else:
                key = _check_key(self._ordering_key(event))
        else:
            key = _check_key(key)
        if self.schema_gate is not None:
            await self.schema_gate.check(event)
        metadata = event.metadata
        record = Record(
            key,
            event._event_type,
            metadata.source_pillar,
            metadata.priority._value_,
            event.data,
            None if delay is None and deliver_at is None else self._due(delay, deliver_at),
            event,
        )
        positions = await self.backend.append(
            topic, (record,), timeout=self._publish_timeout if timeout is None else timeout
        )
        receipt = Receipt(topic, metadata.event_id, positions[0])
        observer = self.observer
        if observer is not None and observer.observes_published:
            observer.published(topic, event, receipt)
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
            key: one ordering key for all; by default each event's own.
            keys: an ordering key for each.
            state: values to store in the same transaction, where the backend offers ``atomic-state``.

        Raises:
            What :meth:`publish` raises; then none of them was published, except after a PublishError: then any of
                them may have been. Publishing all of them again is safe.
        """
        if not self._open or self._closed:
            await self._ensure_open()
        check_topic(topic)
        if not events and not state:
            return []
        for name in state or ():
            check_text("state key", name)
        rule = self._ordering_key
        for event in events:
            _check_event(event)
            if self.schema_gate is not None:
                await self.schema_gate.check(event)
        if keys is not None:
            if len(keys) != len(events):
                raise EventError(f"{len(keys)} ordering keys for {len(events)} events: give one for each")
            records = [Record.of(event, _check_key(own)) for event, own in zip(events, keys, strict=True)]
        elif key is not None:
            key = _check_key(key)
            records = [Record.of(event, key) for event in events]
        elif rule is sender_key:
            records = [Record.of(event, rule(event)) for event in events]
        else:
            records = [Record.of(event, _check_key(rule(event))) for event in events]
        positions = await self.backend.append(
            topic,
            records,
            timeout=self._publish_timeout if timeout is None else timeout,
            state=state,
        )
        receipts = [
            Receipt(topic, event.metadata.event_id, position)
            for event, position in zip(events, positions, strict=True)
        ]
        observer = self.observer
        if observer is not None and observer.observes_published:
            for event, receipt in zip(events, receipts, strict=True):
                observer.published(topic, event, receipt)
        return receipts

    def _due(self, delay: float | timedelta | None, deliver_at: datetime | None) -> float:
        if Capability.DELAYED_DELIVERY not in self.capabilities:
            raise NotOfferedError(f"the {self.backend.name} bus does not offer delayed delivery")
        if delay is not None and deliver_at is not None:
            raise ConfigurationError("give delay or deliver_at, not both")
        if deliver_at is not None:
            if deliver_at.tzinfo is None:
                raise ConfigurationError("deliver_at has no time zone")
            return deliver_at.timestamp()
        assert delay is not None
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
        if not 0 <= seconds < 10 * 366 * 86_400:
            raise ConfigurationError("delay must be between 0 and ten years")
        return self.clock.time() + seconds

    async def request(
        self, topic: str, event: Event, *, timeout: float = 30.0, key: str | None = None
    ) -> Event:
        """Publish a request and wait for the reply: what the handler returned, as an event.

        Raises:
            RequestTimeoutError: no reply within ``timeout`` seconds.
            RemoteError: the handler failed for good.
        """
        await self._ensure_open()
        return await self._requests.request(topic, event, timeout, key)

    # -- subscribing -----------------------------------------------------------------------------

    async def subscribe(
        self,
        topic: str,
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
            topic: made if it does not exist.
            handler: an EventHandler, or a function without filters.
            subscription_id: names the subscription; one that is given is also the group, unless ``group`` is.
            group: subscriptions with one group share the events and go on where the group was. Without a group
                (and without an id or the bus's ``consumer_group``) it is alone, sees every event from ``start`` on, and keeps no
                position.
            start: where a new group, or a lone subscription, begins: the latest event, the earliest, a time, or
                offsets by partition.
            reset: begin at ``start`` even if the group has a position.
            produce_to: a topic for what the handler returns (an event, several, or None). Where the backend states
                ``transactions``, the events and the position of what was handled take effect together, so that each
                event is answered once, whatever crashes; else the events come first and may come twice.
            alone: without a group, whatever the id and the bus's ``consumer_group`` are.
            options: concurrency, retries, time limits, de-duplication.
            middleware: wraps the handler; the first is the outermost.

        Raises:
            EventError: a name that cannot be.
            ConfigurationError: an option that cannot be, or an id that is taken on this bus.
            NotOfferedError: the backend cannot start there.
        """
        await self._ensure_open()
        check_topic(topic)
        if alone and group is not None:
            raise ConfigurationError("a subscription is alone or in a group, not both")
        if group is None and not alone:
            group = subscription_id or self._consumer_group
        if group is not None:
            check_group(group)
        if subscription_id is None:
            subscription_id = f"{group or 'sub'}-{new_event_id()[-12:]}"
        check_group(subscription_id)
        if subscription_id in self._subscriptions:
            raise ConfigurationError(
                f"a subscription {subscription_id!r} is open on this bus; unsubscribe it first, or use another id"
            )
        if isinstance(start, datetime) and start.tzinfo is None:
            raise ConfigurationError("start has no time zone: use an aware datetime")
        called = as_handler(handler)
        if produce_to is not None:
            check_topic(produce_to)
            if group is None or called.batch_size is not None:
                raise ConfigurationError("produce_to needs a group, and a handler of single events")
        subscription = Subscription(
            self,
            subscription_id,
            topic,
            group,
            called,
            start,
            reset,
            produce_to,
            options or SubscriptionOptions(),
            middleware,
        )
        self._subscriptions[subscription_id] = subscription
        try:
            await subscription.start()
        except BaseException:
            del self._subscriptions[subscription_id]
            raise
        return subscription_id

    async def unsubscribe(self, subscription_id: str) -> bool:
        """Drain and close one subscription; False if there is none of that id."""
        subscription = self._subscriptions.pop(subscription_id, None)
        if subscription is None:
            return False
        await subscription.stop(self._drain_timeout)
        return True

    def stats(self) -> dict[str, SubscriptionStats]:
        """Counters by subscription id."""
        return {name: subscription.stats for name, subscription in self._subscriptions.items()}

    def subscription(self, subscription_id: str) -> Subscription:
        """An open subscription.

        Raises:
            ConfigurationError: none has that id.
        """
        found = self._subscriptions.get(subscription_id)
        if found is None:
            raise ConfigurationError(f"no subscription {subscription_id!r} is open on this bus")
        return found

    async def idle(self) -> None:
        """Return when every open subscription has handled what was published before the call."""
        for subscription in tuple(self._subscriptions.values()):
            await subscription.caught_up()

    # -- for the workers -------------------------------------------------------------------------

    async def dead_letter(self, subscription_id: str, delivery: Delivery, failure: Failure) -> None:
        """Append to the dead-letter topic of the failure's topic.

        An event that fails in a dead-letter topic stays where it is: it would go round in circles.
        """
        event = dead_letter(delivery, failure)
        if not failure.topic.endswith(DEAD_LETTER_SUFFIX):
            name = dead_letter_topic(failure.topic)
            await self._ensure_dead_letters(name)
            await self.backend.append(
                name,
                (Record.of(event, delivery.record.key),),
                timeout=self._publish_timeout,
            )
        log.warning(
            "dead letter: event %s of topic %s after %d attempts by %s (%s)",
            event.event_id,
            failure.topic,
            failure.attempts,
            failure.handler,
            type(failure.error).__name__,
        )
        if self.observer is not None:
            self.observer.dead_lettered(failure.topic, subscription_id, event, failure.reason)
        if h.REPLY_TO in event.headers:
            await self.reply(event, None, failure.reason)

    async def _ensure_dead_letters(self, name: str) -> None:
        # Made on purpose and not by the first append: a backend may keep nothing by default. One that is there keeps the
        # settings that it has, so it is looked for first: create_topic would change them.
        if name in self._dead_letter_topics or Capability.TOPIC_ADMIN not in self.capabilities:
            return
        if not await self._has_topic(name):
            try:
                await self.backend.create_topic(name, self._dead_letter_config())
            except DimeshError as error:
                if not await self._has_topic(name):
                    raise
                log.debug("topic %s is there, and is left as it is: %s", name, error)
        self._dead_letter_topics.add(name)

    async def _has_topic(self, name: str) -> bool:
        try:
            await self.backend.read(name, {}, 1)
        except TopicNotFoundError:
            return False
        except NotOfferedError:
            return any(topic.name == name for topic in await self.backend.topics())
        return True

    def _dead_letter_config(self) -> TopicConfig:
        if Capability.RETENTION in self.capabilities:
            return TopicConfig(partitions=1, retention_records=DEAD_LETTERS_KEPT)
        if Capability.SEGMENT_RETENTION in self.capabilities or Capability.AGE_RETENTION in self.capabilities:
            return TopicConfig(partitions=1, retention_seconds=DEAD_LETTERS_KEPT_FOR)
        return TopicConfig(partitions=1)

    async def record_of(self, event: Event) -> Record:
        """An event that a handler produced, as it is published: with its key by the bus's rule, checked as in
        :meth:`publish`.
        """
        if self.schema_gate is not None:
            await self.schema_gate.check(event)
        return Record.of(event, _check_key(self._ordering_key(event)))

    async def reply(self, request: Event, result: Any, error: str | None = None) -> None:
        """Answer a request. A reply that cannot be sent is logged: the request was handled all the same."""
        topic = request.headers.get(h.REPLY_TO)
        try:
            answer = reply_to(request, result, error)
            await self.backend.append(
                check_topic(str(topic)),
                (Record.of(answer, request.metadata.event_id),),
                timeout=self._publish_timeout,
            )
        except DimeshError as failed:
            log.warning("no reply to %s: %s", request.event_id, failed)

    async def _ensure_open(self) -> None:
        if self._closed:
            raise BusClosedError("the bus is closed; make a new one")
        if not self._open:
            await self.open()


def _check_key(key: str) -> str:
    # A lone surrogate would break the backends that write the key.
    if key.__class__ is str and len(key) <= MAX_FIELD and key.isascii():
        return key
    check_text("ordering key", key)
    return str.__str__(key)


def _check_event(event: object) -> None:
    if not isinstance(event, Event):
        raise EventError(
            f"{type(event).__name__} is not an Event: publish(topic, Event(type, metadata, payload))"
        )
