"""The states of subscriptions, for operators in other processes: each change is a record of one topic of dimesh's own.

Changes are rare (a pause, a circuit that opens or closes), so the topic is small. What a process cannot write is logged and
dropped: the state in its own memory is what counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import Final

from dimesh.bus.door import Door, Operation
from dimesh.bus.options import SubscriptionState
from dimesh.bus.reading import read_all
from dimesh.bus.spec import SubscriptionSpec
from dimesh.bus.topics import bounded_topic
from dimesh.capabilities import Capability
from dimesh.errors import CodecError, DimeshError, EventError, NotOfferedError, TopicNotFoundError
from dimesh.events.event import Event
from dimesh.spi.bus import Record

log = logging.getLogger("dimesh.bus")

STATUS_TOPIC: Final = "dimesh.subscriptions"
CHANGED: Final = "system.subscription"
_KEPT: Final = 1_000
_KEPT_FOR: Final = 7 * 86_400.0
_KEY: Final = "status"
_TIMEOUT: Final = 5.0


@dataclass(frozen=True, slots=True)
class SubscriptionStatus:
    """The last reported state of a subscription."""

    id: str
    topic: str
    group: str
    state: SubscriptionState
    reason: str
    since: str
    """The time of the change, in ISO 8601."""


class StatusWriter:
    """Writes the changes of one bus, in order, in the background.

    Args:
        door: where they are appended.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self._pending: deque[Event] = deque()
        self._task: asyncio.Task[None] | None = None
        self._created = False

    def report(self, spec: SubscriptionSpec, state: SubscriptionState, reason: str) -> None:
        """Write a change soon. A subscription without a group is nobody's to administer, and is left out."""
        capabilities = self._door.capabilities
        if spec.group is None or not (
            Capability.LOOK_BACK in capabilities and Capability.TOPIC_ADMIN in capabilities
        ):
            return
        payload = {
            "id": spec.id,
            "topic": spec.topic,
            "group": spec.group,
            "state": state.value,
            "reason": reason,
        }
        self._pending.append(Event(CHANGED, None, payload))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write(), name="dimesh-status")

    async def close(self) -> None:
        """Wait for what is being written."""
        if self._task is not None:
            await self._task

    async def _write(self) -> None:
        while self._pending:
            record = Record.of(self._pending.popleft(), _KEY)
            try:
                if not self._created:
                    await self._door.create_topic(
                        STATUS_TOPIC, bounded_topic(self._door.capabilities, _KEPT_FOR, _KEPT)
                    )
                    self._created = True
                await self._door.append(STATUS_TOPIC, (record,), operation=Operation.STATUS, timeout=_TIMEOUT)
            except DimeshError as error:
                log.warning("the state of a subscription could not be written to %s: %s", STATUS_TOPIC, error)


async def read_statuses(door: Door) -> list[SubscriptionStatus]:
    """Return the last reported state of each subscription that ever reported one, also of processes that are gone."""
    latest: dict[tuple[str, str, str], SubscriptionStatus] = {}
    try:
        async for delivery in read_all(door, STATUS_TOPIC):
            try:
                status = _status_of(delivery.record.event)
            except (CodecError, EventError, KeyError, TypeError, ValueError):
                continue  # not written by this dimesh
            latest[status.topic, status.group, status.id] = status
    except (TopicNotFoundError, NotOfferedError):
        return []
    return list(latest.values())


def _status_of(event: Event) -> SubscriptionStatus:
    payload = event.payload
    return SubscriptionStatus(
        str(payload["id"]),
        str(payload["topic"]),
        str(payload["group"]),
        SubscriptionState(payload["state"]),
        str(payload["reason"])[:500],
        event.metadata.timestamp.isoformat(),
    )
