"""Redelivery: an event whose attempts are used up comes back to its group later, and holds up nobody meanwhile.

The event is appended to its own topic once more, held back by the backend until it is due. It keeps its id, key, payload and
headers; headers of the engine say for which group it is, how often it came back, and how often it failed before.
"""

from __future__ import annotations

import math

from dimesh.bus import headers as h
from dimesh.bus.door import Door, Operation
from dimesh.clock import Clock
from dimesh.errors import CodecError
from dimesh.events.event import Event
from dimesh.spi.bus import Attempts, Delivery, Record

_MOST_DIGITS = 9


class Redelivery:
    """Sends events back to the group that failed.

    Args:
        door: where the events are appended.
        clock: for the times at which they are due.
        timeout: seconds to wait for room in a full buffer.
    """

    def __init__(self, door: Door, clock: Clock, timeout: float) -> None:
        self._door = door
        self._clock = clock
        self._timeout = timeout

    async def send(
        self, topic: str, group: str, delivery: Delivery, attempts: Attempts, delay: float
    ) -> None:
        """Append the event again, due after ``delay`` seconds.

        Raises:
            DimeshError: what an append raises; the event was not sent, or may have been.
        """
        record = delivery.record
        event = record.event
        total = in_all(delivery, attempts)
        again = event.replace(
            headers={
                **event.headers,
                h.REDRIVE_GROUP: group,
                h.REDELIVERIES: str(redeliveries(event) + 1),
                h.ATTEMPTS: str(total.failures),
                h.FIRST_FAILURE: repr(total.first),
            }
        )
        due = self._clock.time() + delay
        await self._door.append(
            topic,
            (Record.of(again, record.key, due),),
            operation=Operation.REDELIVER,
            timeout=self._timeout,
        )


def redeliveries(event: Event) -> int:
    """Return how often an event came back to its group later."""
    return h.number(event.headers.get(h.REDELIVERIES), _MOST_DIGITS)


def in_all(delivery: Delivery, attempts: Attempts) -> Attempts:
    """Return the failed attempts of a delivery together with those of the deliveries before it."""
    try:
        headers = delivery.record.event.headers
    except CodecError:
        return attempts
    earlier = h.number(headers.get(h.ATTEMPTS), _MOST_DIGITS)
    if not earlier:
        return attempts
    try:
        first = float(str(headers.get(h.FIRST_FAILURE)))
    except ValueError:
        first = math.inf
    # The headers came over a broker: what is not plausible is not believed.
    return Attempts(attempts.failures + earlier, first if 0 < first < attempts.first else attempts.first)
