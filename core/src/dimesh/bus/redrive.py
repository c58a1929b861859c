"""The dead letters of a mesh: list them, send them back, or discard them.

A dead-letter topic is a log like any other, so nothing is ever taken out of it: an entry that was sent back or discarded is
marked by a later record in the same topic, and the open entries are those without a mark. A mark has a header that only the
engine can write, so that an event from outside cannot close an entry.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from dimesh.bus import headers as h
from dimesh.bus.deadletter import (
    DISCARDED,
    REDRIVEN,
    REFERENCES,
    UNDECODABLE,
    DeadLetter,
    Form,
    origin_topic,
    revived,
)
from dimesh.bus.door import Operation
from dimesh.bus.engine import EventBus
from dimesh.bus.reading import read_all
from dimesh.capabilities import Capability
from dimesh.errors import (
    CodecError,
    DimeshError,
    NotOfferedError,
    PositionLostError,
    TopicNotFoundError,
    is_permanent,
)
from dimesh.events.event import Event
from dimesh.events.names import check_topic
from dimesh.events.topics import DEAD_LETTER_SUFFIX, dead_letter_topic
from dimesh.spi.bus import Position, Record

MAX_REDRIVES: Final = 3
"""An event that came back this often is not sent again unless forced: it would go round for ever."""


Prepare: TypeAlias = Callable[[DeadLetter, Event], Awaitable[Event | str]]
"""Returns the event to send in place of the one that failed, or the reason why it is not sent."""


@dataclass(frozen=True, slots=True)
class RedriveResult:
    """The result of :meth:`DeadLetters.redrive` or :meth:`DeadLetters.discard`."""

    done: tuple[DeadLetter, ...]
    skipped: tuple[tuple[DeadLetter, str], ...]
    """Each skipped entry with the reason."""


class DeadLetters:
    """The dead letters of a bus whose backend can be read again."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus

    async def topics(self) -> list[str]:
        """Return the names of the dead-letter topics."""
        await self._bus.open()
        return [t.name for t in await self._bus.door.topics() if t.name.endswith(DEAD_LETTER_SUFFIX)]

    async def entries(self, topic: str | None = None, *, include_closed: bool = False) -> list[DeadLetter]:
        """Return the open entries, oldest first.

        Args:
            topic: the topic whose dead letters to list, with or without ``.dlq``; None: all topics.
            include_closed: list entries that were sent back or discarded, too.

        Raises:
            TopicNotFoundError: no event of that topic was ever dead-lettered.
        """
        await self._bus.open()
        names = await self.topics() if topic is None else [dead_letter_topic(check_topic(topic))]
        found = [entry for name in names for entry in await self._fold(name)]
        return [entry for entry in found if include_closed or entry.open]

    async def _fold(self, name: str) -> list[DeadLetter]:
        entries: dict[Position, Event] = {}
        closed: dict[Position, str] = {}
        door = self._bus.door
        if not any(topic.name == name for topic in await door.topics()):
            raise TopicNotFoundError(
                f"there is no topic {name!r}: no event of {name.removesuffix(DEAD_LETTER_SUFFIX)!r} was dead-lettered"
            )
        async for delivery in read_all(door, name):
            try:
                event = delivery.record.event
            except CodecError:
                continue  # a damaged record: nothing can be reported of it, and it stays where it is
            kind = event.event_type.value
            position = _marked(event)
            if position is not None:
                closed[position] = kind
            else:
                entries[Position(delivery.partition, delivery.offset)] = event
        return [
            DeadLetter(
                position,
                event,
                origin_topic(name, event),
                redriven=closed.get(position) == REDRIVEN,
                discarded=closed.get(position) == DISCARDED,
            )
            for position, event in entries.items()
        ]

    async def redrive(
        self,
        topic: str,
        *,
        positions: Collection[Position] | None = None,
        ids: Collection[str] | None = None,
        limit: int | None = None,
        force: bool = False,
        prepare: Prepare | None = None,
        dry_run: bool = False,
    ) -> RedriveResult:
        """Send open entries back to the topic that they failed on, for the group that failed.

        Args:
            topic: the topic that the events failed on, with or without ``.dlq``.
            positions: only these entries.
            ids: only entries of events with these ids.
            limit: the largest number of entries to send.
            force: send entries, too, that were sent back three times already.
            prepare: returns the event to send in place of the one that failed, or the reason why it is not sent. All entries are
                prepared before the first one is sent.
            dry_run: send nothing; the result is what would be done.

        Raises:
            DimeshError: the backend failed, or ``prepare`` raised. In the second case nothing was sent.
        """
        done: list[DeadLetter] = []
        skipped: list[tuple[DeadLetter, str]] = []
        prepared: dict[Position, Event] = {}
        chosen = self._chosen(await self.entries(topic), positions, ids)
        if prepare is not None:
            chosen = await self._prepare(chosen, force, limit, prepare, prepared, skipped)
        for entry in chosen:
            if limit is not None and len(done) >= limit:
                break
            reason = _why_not(entry, force)
            original = None if reason is not None else await self.original(entry)
            if original is None:
                skipped.append((entry, reason or self._missing(entry)))
                continue
            if dry_run:
                done.append(entry)
                continue
            # The event first, then the mark: a crash in between sends the event twice, and the repeat is recognised by its
            # id and number of redrives.
            event, key = original
            event = prepared.get(entry.position, event)
            try:
                await self._bus.door.append(
                    entry.topic, (Record.of(revived(entry, event), key),), operation=Operation.REDRIVE
                )
            except DimeshError as error:
                if not is_permanent(error):
                    raise
                skipped.append((entry, f"the bus refuses it: {error}"))
                continue
            await self._mark(dead_letter_topic(topic), entry, REDRIVEN, Operation.REDRIVE)
            done.append(entry)
        return RedriveResult(tuple(done), tuple(skipped))

    async def _prepare(
        self,
        entries: Sequence[DeadLetter],
        force: bool,
        limit: int | None,
        prepare: Prepare,
        prepared: dict[Position, Event],
        skipped: list[tuple[DeadLetter, str]],
    ) -> list[DeadLetter]:
        """Return the entries that can be sent, at most ``limit``, with their events in ``prepared``."""
        ready: list[DeadLetter] = []
        for entry in entries:
            if limit is not None and len(ready) >= limit:
                break
            made: Event | str | None = _why_not(entry, force)
            if made is None:
                original = await self.original(entry)
                made = self._missing(entry) if original is None else await prepare(entry, original[0])
            if isinstance(made, Event):
                prepared[entry.position] = made
                ready.append(entry)
            else:
                skipped.append((entry, made))
        return ready

    async def original(self, entry: DeadLetter) -> tuple[Event, str] | None:
        """Return the event that failed, with its ordering key. If the entry is not whole, the event is read from its topic; None
        if it cannot be read there any more.
        """
        if entry.form is Form.WHOLE:
            return entry.event, entry.key
        partition, offset = entry.origin
        try:
            found = await self._bus.door.read(
                entry.topic, {partition: offset}, 1, operation=Operation.REDRIVE
            )
        except (NotOfferedError, TopicNotFoundError, PositionLostError):
            return None
        for delivery in found:
            if (delivery.partition, delivery.offset) == (partition, offset):
                try:
                    event = delivery.record.event
                except CodecError:
                    return None
                if event.event_id == entry.event_id:
                    return event, delivery.record.key
        return None

    def _missing(self, entry: DeadLetter) -> str:
        place = f"{entry.topic}, partition {entry.origin.partition}, offset {entry.origin.offset}"
        what = "payload" if entry.form in REFERENCES else "headers"
        why = (
            "is no longer there"
            if Capability.LOOK_BACK in self._bus.capabilities
            else f"cannot be read again on the {self._bus.door.name} bus"
        )
        return (
            f"the entry was too large for the {what} of the event, which {why} ({place}): have its sender publish it again, and "
            "discard the entry"
        )

    async def discard(
        self,
        topic: str,
        *,
        positions: Collection[Position] | None = None,
        ids: Collection[str] | None = None,
    ) -> RedriveResult:
        """Mark open entries as discarded. They stay readable until retention removes them."""
        done = self._chosen(await self.entries(topic), positions, ids)
        for entry in done:
            await self._mark(dead_letter_topic(topic), entry, DISCARDED, Operation.DISCARD)
        return RedriveResult(tuple(done), ())

    @staticmethod
    def _chosen(
        entries: list[DeadLetter], positions: Collection[Position] | None, ids: Collection[str] | None
    ) -> list[DeadLetter]:
        return [
            entry
            for entry in entries
            if (positions is None or entry.position in positions) and (ids is None or entry.event_id in ids)
        ]

    async def _mark(self, name: str, entry: DeadLetter, kind: str, operation: Operation) -> None:
        partition, offset = entry.position
        mark = Event(
            kind,
            None,
            {"partition": partition, "offset": offset, "event_id": entry.event_id},
            headers={h.DLQ_CLOSES: f"{partition}/{offset}"},
        )
        await self._bus.door.append(name, (Record.of(mark, entry.key),), operation=operation)


def _why_not(entry: DeadLetter, force: bool) -> str | None:
    if entry.event.event_type.value == UNDECODABLE:
        return "its bytes are not an event: read them with 'dlq show', then discard the entry"
    if entry.redrives >= MAX_REDRIVES and not force:
        return f"it was sent back {entry.redrives} times already: repair the handler, then force it"
    return None


def _marked(event: Event) -> Position | None:
    """Return the position of the entry that a mark closes; None for an event that is not a mark."""
    # The payload says the same, for people: users can write a payload of that shape, and not the header.
    closes = event.headers.get(h.DLQ_CLOSES)
    if event.event_type.value not in (REDRIVEN, DISCARDED) or not isinstance(closes, str):
        return None
    partition, _, offset = closes.partition("/")
    if partition.isdecimal() and offset.isdecimal() and len(closes) < 50:
        return Position(int(partition), int(offset))
    return None
