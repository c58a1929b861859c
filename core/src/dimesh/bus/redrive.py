"""The dead letters of a mesh: list them, send them back, or give them up.

A dead-letter topic is a log like any other, so nothing is ever taken out of it: what was sent back or given up is
marked by a later record in the same topic, and the open entries are those without a mark.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Final

from dimesh.bus import headers as h
from dimesh.bus.deadletter import DISCARDED, REDRIVEN, UNDECODABLE, DeadLetter, revived
from dimesh.bus.engine import EventBus
from dimesh.errors import CodecError, EventError, PayloadError, TopicNotFoundError
from dimesh.events.event import Event
from dimesh.events.names import check_topic
from dimesh.events.topics import DEAD_LETTER_SUFFIX, dead_letter_topic
from dimesh.spi.bus import Delivery, Position, Record, StartAt

MAX_REDRIVES: Final = 3
"""An event that came back this often is not sent again unless forced: it would go round for ever."""
PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class RedriveResult:
    """What :meth:`DeadLetters.redrive` or :meth:`DeadLetters.discard` did."""

    done: tuple[DeadLetter, ...]
    skipped: tuple[tuple[DeadLetter, str], ...]
    """Each with the reason."""


class DeadLetters:
    """The dead letters of a bus whose backend can be read again."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus

    async def topics(self) -> list[str]:
        """Names of the dead-letter topics."""
        await self._bus.open()
        return [t.name for t in await self._bus.backend.topics() if t.name.endswith(DEAD_LETTER_SUFFIX)]

    async def entries(self, topic: str | None = None, *, include_closed: bool = False) -> list[DeadLetter]:
        """The open entries, oldest first.

        Args:
            topic: the topic whose dead letters to list, with or without ``.dlq``; None: of all topics.
            include_closed: those that were sent back or given up, too.

        Raises:
            TopicNotFoundError: nothing of that topic was ever dead-lettered.
        """
        await self._bus.open()
        names = await self.topics() if topic is None else [dead_letter_topic(check_topic(topic))]
        found = [entry for name in names for entry in await self._fold(name)]
        return [entry for entry in found if include_closed or entry.open]

    async def _fold(self, name: str) -> list[DeadLetter]:
        entries: dict[Position, Event] = {}
        redriven: set[Position] = set()
        discarded: set[Position] = set()
        async for delivery in self._scan(name):
            try:
                event = delivery.record.event
            except CodecError:
                continue  # our own damaged record: nothing can be said of it, and it stays where it is
            kind = event.event_type.value
            # A dead letter says why it is one; without that look an event of these types could pose as a mark.
            if kind in (REDRIVEN, DISCARDED) and h.DLQ_REASON not in event.headers:
                position = _marked(event)
                if position is not None:
                    (redriven if kind == REDRIVEN else discarded).add(position)
            else:
                entries[Position(delivery.partition, delivery.offset)] = event
        origin = name.removesuffix(DEAD_LETTER_SUFFIX)
        return [
            DeadLetter(position, event, position in redriven, position in discarded, origin)
            for position, event in entries.items()
        ]

    async def _scan(self, name: str) -> AsyncIterator[Delivery]:
        backend = self._bus.backend
        infos = [t for t in await backend.topics() if t.name == name]
        if not infos:
            raise TopicNotFoundError(
                f"there is no topic {name!r}: nothing of {name.removesuffix(DEAD_LETTER_SUFFIX)!r} was dead-lettered"
            )
        page = list(await backend.read(name, StartAt.EARLIEST, PAGE))
        while page:
            following: dict[int, int] = {}
            for delivery in page:
                yield delivery
                following[delivery.partition] = max(delivery.offset + 1, following.get(delivery.partition, 0))
            page = list(await backend.read(name, following, PAGE))

    async def redrive(
        self,
        topic: str,
        *,
        positions: Collection[Position] | None = None,
        ids: Collection[str] | None = None,
        limit: int | None = None,
        force: bool = False,
    ) -> RedriveResult:
        """Send open entries back to the topic they came from, for the group that failed.

        Args:
            topic: the origin topic, with or without ``.dlq``.
            positions: only these entries.
            ids: only entries of events with these ids.
            limit: at most this many.
            force: also those that were sent back three times already.
        """
        done: list[DeadLetter] = []
        skipped: list[tuple[DeadLetter, str]] = []
        for entry in self._chosen(await self.entries(topic), positions, ids):
            if limit is not None and len(done) >= limit:
                break
            reason = _why_not(entry, force)
            if reason is not None:
                skipped.append((entry, reason))
                continue
            # Back first, then the mark: a crash in between sends it twice, and the second one is recognised by
            # its id and count.
            await self._bus.backend.append(entry.topic, (Record.of(revived(entry), entry.key),))
            await self._mark(dead_letter_topic(topic), entry, REDRIVEN)
            done.append(entry)
        return RedriveResult(tuple(done), tuple(skipped))

    async def discard(
        self,
        topic: str,
        *,
        positions: Collection[Position] | None = None,
        ids: Collection[str] | None = None,
    ) -> RedriveResult:
        """Mark open entries as given up. They stay readable until retention removes them."""
        done = self._chosen(await self.entries(topic), positions, ids)
        for entry in done:
            await self._mark(dead_letter_topic(topic), entry, DISCARDED)
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

    async def _mark(self, name: str, entry: DeadLetter, kind: str) -> None:
        partition, offset = entry.position
        mark = Event(kind, None, {"partition": partition, "offset": offset, "event_id": entry.event_id})
        await self._bus.backend.append(name, (Record.of(mark, entry.key),))


def _why_not(entry: DeadLetter, force: bool) -> str | None:
    if entry.event.event_type.value == UNDECODABLE:
        return "its bytes are no event; read them with 'dlq show', then discard it"
    try:
        check_topic(entry.topic)
    except EventError:
        return "it does not say which topic it came from"
    if entry.redrives >= MAX_REDRIVES and not force:
        return f"it was sent back {entry.redrives} times already; mend the handler and force it"
    return None


def _marked(mark: Event) -> Position | None:
    try:
        payload = mark.payload
    except PayloadError:
        return None
    if not isinstance(payload, dict):
        return None
    partition, offset = payload.get("partition"), payload.get("offset")
    if isinstance(partition, int) and isinstance(offset, int):
        return Position(partition, offset)
    return None
