"""Events that are refused at publish: they become dead letters of their topic."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from dimesh.bus.deadletter import PUBLISHING, refused_at_publish
from dimesh.bus.deadletter_topics import DeadLetterTopics
from dimesh.bus.door import Door, Operation
from dimesh.bus.observer import BusObserver, notify
from dimesh.clock import Clock
from dimesh.errors import DimeshError, is_permanent
from dimesh.events.event import Event
from dimesh.events.topics import dead_letter_topic
from dimesh.printable import printable_error
from dimesh.spi.bus import Record
from dimesh.spi.receipt import Receipt

log = logging.getLogger("dimesh.bus")


class Refused(NamedTuple):
    """An event that is not published."""

    event: Event
    key: str
    error: DimeshError


class RefusedEvents:
    """Appends refused events to the dead-letter topics of a bus.

    Args:
        door: where they are appended.
        clock: time.
        observer: is notified of each.
    """

    def __init__(self, door: Door, clock: Clock, observer: BusObserver | None) -> None:
        self._door = door
        self._clock = clock
        self._observer = observer
        self._topics = DeadLetterTopics(door)

    async def dead_letter(self, topic: str, refused: Sequence[Refused], timeout: float) -> list[Receipt]:
        """Append events as dead letters of a topic, and return a receipt for each.

        Raises:
            DimeshError: the backend failed; the events may be published again. If it takes no dead letter as large as one of
                them, the reason for which the first of them was refused.
        """
        name = dead_letter_topic(topic)
        await self._topics.ensure(name)
        now = self._clock.time()
        letters = [refused_at_publish(r.event, topic, r.key, r.error, now) for r in refused]
        try:
            positions = await self._door.append(
                name,
                [Record.of(letter, r.key) for letter, r in zip(letters, refused, strict=True)],
                operation=Operation.DEAD_LETTER,
                timeout=timeout,
            )
        except DimeshError as error:
            if is_permanent(error):
                raise refused[0].error from error
            raise
        for letter, one in zip(letters, refused, strict=True):
            log.warning(
                "dead letter: event %s was not published to topic %s (%s)",
                letter.event_id,
                topic,
                printable_error(one.error, 200),
            )
            if self._observer is not None:
                notify(self._observer.dead_lettered, topic, PUBLISHING, letter, printable_error(one.error))
        return [
            Receipt(name, letter.event_id, position)
            for letter, position in zip(letters, positions, strict=True)
        ]
