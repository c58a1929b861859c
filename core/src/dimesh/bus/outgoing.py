"""Events on their way out: checked, given an ordering key, and appended through the door."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from dimesh.bus.door import Door, Operation, check_all_headers
from dimesh.bus.interceptors import Interceptors
from dimesh.bus.observer import BusObserver, notify
from dimesh.bus.refused import Refused, RefusedEvents
from dimesh.bus.retry import LONGEST_DELAY
from dimesh.bus.schemas import NOTHING_REFUSED, Refusals, SchemaCheck
from dimesh.capabilities import Capability
from dimesh.clock import Clock
from dimesh.errors import ConfigurationError, EventError, NotOfferedError
from dimesh.events.event import Event
from dimesh.events.metadata import MAX_FIELD, check_text
from dimesh.spi.bus import Position, Record
from dimesh.spi.interceptor import Publishing
from dimesh.spi.receipt import Receipt


def sender_key(event: Event) -> str:
    """Return the default ordering key, ``<pillar>:<agent>``: the events of one sending agent stay in order."""
    return event.metadata.ordering_key


class Outgoing:
    """What every way of publishing shares: rules, interceptors, door and observer.

    Args:
        door: where records are appended.
        clock: for delays.
        ordering_key: the rule for the key of an event that was given none.
        interceptors: wrap each publish.
        observer: is notified of what was published.
        timeout: seconds to wait for room in a full buffer.
        check: the check of schemas, inside all interceptors; None: none.
    """

    def __init__(
        self,
        door: Door,
        clock: Clock,
        ordering_key: Callable[[Event], str],
        interceptors: Interceptors,
        observer: BusObserver | None,
        timeout: float,
        check: SchemaCheck | None = None,
    ) -> None:
        self.door = door
        self.rule = ordering_key
        self.interceptors = interceptors
        self.observer = observer
        self.timeout = timeout
        self.check = check
        self._refused = RefusedEvents(door, clock, observer)
        self._clock = clock

    async def publish(
        self,
        topic: str,
        events: Sequence[Event],
        *,
        operation: Operation = Operation.PUBLISH,
        keys: Sequence[str] | None = None,
        deliver_at: float | None = None,
        timeout: float | None = None,
        state: Mapping[str, bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> list[Receipt]:
        """Publish events in order; return a receipt for each.

        Args:
            topic: a valid name.
            events: what users publish. Headers of the engine in them are refused.
            operation: what the door is told.
            keys: an ordering key for each event; None: by the rule.
            deliver_at: epoch seconds before which nothing is delivered.
            timeout: seconds to wait for room; None: the default.
            state: values to store in the same transaction.
            headers: headers of the engine, added after all interceptors have run.
        """

        async def append(final: Sequence[Event]) -> list[Receipt]:
            check_all_headers(final)
            refused = NOTHING_REFUSED
            if self.check is not None:
                final, refused = await self.check.outgoing(topic, operation, final)
            sent = final if headers is None else [_with_headers(event, headers) for event in final]
            if keys is not None:
                records = [Record.of(event, key, deliver_at) for event, key in zip(sent, keys, strict=True)]
            elif self.rule is sender_key:
                # Record.of with the default key, spelled out: three calls less for each event.
                records = []
                for event in sent:
                    metadata = event.metadata
                    pillar = metadata.source_pillar
                    records.append(
                        Record(
                            f"{pillar}:{metadata.source_agent}",
                            event._event_type,
                            pillar,
                            metadata.priority._value_,
                            event.data,
                            deliver_at,
                            event,
                        )
                    )
            else:
                records = [Record.of(event, self.key_of(event), deliver_at) for event in sent]
            wait = self.timeout if timeout is None else timeout
            aside: dict[int, Receipt] = {}
            if refused:
                # These first: after a crash in between, the sender publishes all of them again.
                aside = await self._set_aside(topic, sent, records, refused, wait)
                sent = [event for n, event in enumerate(sent) if n not in refused]
                records = [record for n, record in enumerate(records) if n not in refused]
                if not records and not state:
                    return list(aside.values())
            positions = await self.door.append(topic, records, operation=operation, timeout=wait, state=state)
            receipts = self.receipts(topic, sent, positions)
            for place, receipt in aside.items():
                receipts.insert(place, receipt)
            return receipts

        if self.interceptors.publishing and events:
            return list(await self.interceptors.publish(Publishing(topic, operation.value), events, append))
        return await append(events)

    async def _set_aside(
        self,
        topic: str,
        events: Sequence[Event],
        records: Sequence[Record],
        refused: Refusals,
        timeout: float,
    ) -> dict[int, Receipt]:
        """Append refused events to the dead letters of a topic; return their receipts by their places, ascending."""
        letters = [Refused(events[n], records[n].key, error) for n, error in refused.items()]
        return dict(zip(refused, await self._refused.dead_letter(topic, letters, timeout), strict=True))

    def receipts(
        self, topic: str, events: Sequence[Event], positions: Sequence[Position | None]
    ) -> list[Receipt]:
        """Make the receipts and notify the observer."""
        receipts = [
            Receipt(topic, event.metadata.event_id, position)
            for event, position in zip(events, positions, strict=True)
        ]
        observer = self.observer
        if observer is not None and observer.observes_published:
            for event, receipt in zip(events, receipts, strict=True):
                notify(observer.published, topic, event, receipt)
        return receipts

    async def records(self, topic: str, events: Sequence[Event]) -> list[Record]:
        """Return the records of events that a handler produced. They are checked, also against the limits of the backend, and
        pass the interceptors, as in a publish;
        their receipts have no position yet, since they are appended together with the position of what was handled.
        """
        records: list[Record] = []

        async def hold(final: Sequence[Event]) -> list[Receipt]:
            check_all_headers(final)
            refused = NOTHING_REFUSED
            if self.check is not None:
                final, refused = await self.check.outgoing(topic, Operation.PRODUCE, final)
            made = [Record.of(event, self.key_of(event)) for event in final]
            aside: dict[int, Receipt] = {}
            if refused:
                aside = await self._set_aside(topic, final, made, refused, self.timeout)
            kept = [record for n, record in enumerate(made) if n not in refused]
            self.door.check_records(topic, kept)
            records.extend(kept)
            return [aside.get(n) or Receipt(topic, event.metadata.event_id) for n, event in enumerate(final)]

        if self.interceptors.publishing and events:
            await self.interceptors.publish(Publishing(topic, Operation.PRODUCE.value), events, hold)
        else:
            await hold(events)
        return records

    def key_of(self, event: Event) -> str:
        """Return the ordering key by the rule."""
        return sender_key(event) if self.rule is sender_key else check_key(self.rule(event))

    def due(self, delay: float | timedelta | None, deliver_at: datetime | None) -> float | None:
        """Return the epoch seconds at which a delayed event is delivered; None: at once.

        Raises:
            NotOfferedError: the backend does not hold events back.
            ConfigurationError: both are given, there is no time zone, or the delay is out of range.
        """
        if delay is None and deliver_at is None:
            return None
        if Capability.DELAYED_DELIVERY not in self.door.capabilities:
            raise NotOfferedError(f"the {self.door.name} bus does not offer delayed delivery")
        if delay is not None and deliver_at is not None:
            raise ConfigurationError("give delay or deliver_at, not both")
        if deliver_at is not None:
            if deliver_at.tzinfo is None:
                raise ConfigurationError("deliver_at has no time zone: use an aware datetime")
            return deliver_at.timestamp()
        assert delay is not None
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
        if not 0 <= seconds < LONGEST_DELAY:
            raise ConfigurationError("delay must be between 0 and ten years")
        return self._clock.time() + seconds


def _with_headers(event: Event, headers: Mapping[str, str]) -> Event:
    return event.replace(headers={**event.headers, **headers})


def check_key(key: str) -> str:
    """Return ``key`` if it can be an ordering key.

    Raises:
        EventError: it is no text of at most 1,024 characters, or holds a lone surrogate, which backends cannot write.
    """
    if key.__class__ is str and len(key) <= MAX_FIELD and key.isascii():
        return key
    check_text("ordering key", key)
    return str.__str__(key)


def check_event(event: object) -> None:
    """Refuse what is not an event.

    Raises:
        EventError: with the right way to call ``publish``.
    """
    if not isinstance(event, Event):
        raise EventError(
            f"{type(event).__name__} is not an Event: publish(topic, Event(type, metadata, payload))"
        )
