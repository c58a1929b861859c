"""Appends dead letters, in the largest form that the backend takes."""

from __future__ import annotations

import logging

from dimesh.bus import headers as h
from dimesh.bus.deadletter import UNDECODABLE, Failure, Form, dead_letter
from dimesh.bus.deadletter_topics import DeadLetterTopics
from dimesh.bus.door import Door, Operation
from dimesh.bus.observer import BusObserver, notify
from dimesh.bus.replies import Replies
from dimesh.errors import DimeshError, is_permanent
from dimesh.events.event import Event, restore
from dimesh.events.metadata import EventMetadata
from dimesh.events.topics import DEAD_LETTER_SUFFIX, dead_letter_topic
from dimesh.printable import printable_error
from dimesh.spi.bus import Delivery, Record

log = logging.getLogger("dimesh.bus")


class DeadLetterWriter:
    """Appends to the dead-letter topics of a bus.

    Args:
        door: where dead letters are appended.
        replies: answers a request whose handler failed for good.
        observer: is notified of each dead letter.
        timeout: seconds to wait for room in a full buffer.
    """

    def __init__(self, door: Door, replies: Replies, observer: BusObserver | None, timeout: float) -> None:
        self._door = door
        self._replies = replies
        self._observer = observer
        self._timeout = timeout
        self._topics = DeadLetterTopics(door)

    async def write(self, subscription_id: str, delivery: Delivery, failure: Failure) -> bool:
        """Append to the dead-letter topic of the failure's topic.

        An event that fails in a dead-letter topic stays where it is: otherwise it would go round in circles.

        Returns:
            Whether the dead letter is there. False: the backend has refused every form of it for good, and it is given up. That
            is logged as critical, and the observer is notified; the event stays in its topic until retention removes it.

        Raises:
            Exception: the backend failed, and another call may succeed.
        """
        event: Event | None = None
        refused: Exception | None = None
        if failure.topic.endswith(DEAD_LETTER_SUFFIX):
            event = dead_letter(delivery, failure)
        else:
            event, refused = await self._append(delivery, failure)
        if event is None:
            event = self._give_up(subscription_id, delivery, failure, refused)
            written = False
        else:
            written = True
            log.warning(
                "dead letter: event %s of topic %s after %d attempts by %s (%s)%s",
                event.event_id,
                failure.topic,
                failure.attempts,
                failure.handler,
                printable_error(failure.error, 200),
                "" if refused is None else f"; only in the form {event.headers[h.DLQ_FORM]!s}: {refused}",
            )
            if self._observer is not None:
                notify(self._observer.dead_lettered, failure.topic, subscription_id, event, failure.reason)
        if h.REPLY_TO in event.headers:
            await self._replies.reply(event, None, failure.reason)
        return written

    async def _append(self, delivery: Delivery, failure: Failure) -> tuple[Event | None, Exception | None]:
        """Append the largest form that is taken. Return the event, None if each form was refused for good; and the last refusal.

        An error that no backend should raise leads to the next smaller form, too, but never to giving up: it may be an outage.
        """
        name = dead_letter_topic(failure.topic)
        await self._topics.ensure(name)
        refused: Exception | None = None
        unknown: Exception | None = None
        for form in Form:
            try:
                event = dead_letter(delivery, failure, form)
                record = Record.of(event, delivery.record.key)
            except Exception as error:  # foreign objects that cannot be read: the same in every attempt
                refused = error
                continue
            try:
                await self._door.append(
                    name, (record,), operation=Operation.DEAD_LETTER, timeout=self._timeout
                )
            except Exception as error:
                if is_permanent(error):
                    refused = error
                elif isinstance(error, DimeshError):
                    raise
                else:
                    unknown = error
            else:
                return event, refused or unknown
        if unknown is not None:
            raise unknown
        return None, refused

    def _give_up(
        self, subscription_id: str, delivery: Delivery, failure: Failure, refused: Exception | None
    ) -> Event:
        try:
            event = delivery.record.event
        except Exception:  # bytes that are not an event
            event = restore(UNDECODABLE, EventMetadata(), delivery.record.payload)
        text = "" if refused is None else printable_error(refused)
        log.critical(
            "GIVEN UP: event %s of topic %s, partition %d, offset %d failed in %s (%s), and its dead letter is refused: %s. "
            "The event stays in its topic until retention removes it: read it there, and publish it again",
            event.event_id,
            failure.topic,
            delivery.partition,
            delivery.offset,
            failure.handler,
            failure.reason,
            text,
        )
        if self._observer is not None:
            reason = f"{failure.reason}; the dead letter was refused: {text}"
            notify(self._observer.given_up, failure.topic, subscription_id, event, reason)
        return event
