"""Changes of phase as events: an outage begins or ends, a snapshot or a repair does, capture is paused, fails or stops.

They go to the topic of the changes, beside them: capture never waits for one, and a bus that is down delays them only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from typing import Final

from dimesh.bus.engine import EventBus
from dimesh.bus.retry import RetryPolicy
from dimesh.errors import BusClosedError
from dimesh.events.event import Event
from dimesh.tasks import end_tasks

log = logging.getLogger("dimesh.cdc")

MOST_WAITING: Final = 100
"""The number of events that wait for a bus which cannot publish; after that, the oldest ones are dropped."""
LAST_WORDS: Final = 2.0
"""Seconds for which a connector that stops waits for its last events to be published."""
_BACKOFF: Final = RetryPolicy(base=0.5, maximum=30.0)


class StatusFeed:
    """Publishes the changes of phase of one connector, in order, in the background.

    Args:
        connector_id: the id of the connector, for the log.
        bus: the bus.
        topic: the topic of the changes.
        rng: the source of jitter.
    """

    def __init__(self, connector_id: str, bus: EventBus, topic: str, rng: random.Random) -> None:
        self.dropped = 0
        """The number of events that were not published."""
        self._connector_id = connector_id
        self._bus = bus
        self._topic = topic
        self._rng = rng
        self._waiting: deque[tuple[Event, str]] = deque()
        self._task: asyncio.Task[None] | None = None

    def add(self, event: Event, key: str) -> None:
        """Publish an event soon.

        Args:
            event: the event.
            key: its ordering key.
        """
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append((event, key))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._publish(), name=f"dimesh-cdc-{self._connector_id}-status")

    async def close(self) -> None:
        """Wait a moment for the last events, and drop what is left."""
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                await asyncio.shield(self._task)
        await end_tasks([self._task])
        self._drop()

    async def _publish(self) -> None:
        failures = 0
        while self._waiting:
            first = self._waiting[0]
            event, key = first
            try:
                await self._bus.publish_many(self._topic, [event], keys=[key])
            except BusClosedError:
                self._drop()
            except Exception as error:
                failures += 1
                if failures == 1:
                    log.warning(
                        "%s: a change of phase cannot be published yet: %s", self._connector_id, error
                    )
                await self._bus.clock.sleep(_BACKOFF.delay(min(failures, 10), self._rng))
            else:
                failures = 0
                if self._waiting and self._waiting[0] is first:  # else it was dropped meanwhile
                    self._waiting.popleft()

    def _drop(self) -> None:
        if self._waiting:
            self.dropped += len(self._waiting)
            self._waiting.clear()
            log.warning("%s: %d changes of phase were not published", self._connector_id, self.dropped)
