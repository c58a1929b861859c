"""Processes that capture the same connector and share only the bus: they notice each other, and one of them waits.

A process asks on the topic ``dimesh.presence`` before it captures, and now and then while it does. A process that captures, or
that began to ask earlier, answers. So one captures, and the others take over when it says that it stops, or no longer answers.

This is no lock: while two processes cannot hear each other, both capture. Their changes have the same event ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from dimesh.bus.engine import EventBus
from dimesh.bus.topics import bounded_topic
from dimesh.capabilities import Capability
from dimesh.clock import time_limit
from dimesh.errors import DimeshError
from dimesh.events.event import Event
from dimesh.printable import printable
from dimesh.storage.process import process_name

log = logging.getLogger("dimesh.cdc")

TOPIC: Final = "dimesh.presence"
PRESENCE_TYPE: Final = "cdc.presence"
ANSWER_LOCAL: Final = 0.3
"""Seconds to wait for an answer on a bus that keeps its records on this machine."""
ANSWER: Final = 2.0
"""Seconds to wait for an answer on any other bus."""
ASK_AGAIN: Final = 5.0
"""Seconds between two questions of a process that waits."""
UNANSWERED: Final = 3
"""The number of questions in a row that must stay without an answer before a process that waits takes over."""
REMIND: Final = 60.0
"""Seconds between two questions of a process that captures: after the bus was divided, two may capture."""
_KEPT: Final = 1_000


@dataclass(frozen=True, slots=True)
class Rival:
    """A process that captures a connector, or would like to."""

    instance: str
    process: str
    """The machine and the process, for operators."""
    since: float
    """The time at which it began to ask, by its own clock."""
    captures: bool

    @property
    def rank(self) -> tuple[bool, float, str]:
        """The order of precedence: whoever captures goes first, then whoever began earlier."""
        return not self.captures, self.since, self.instance


class Presence:
    """The presence of this process among those that capture one connector.

    Args:
        bus: the bus.
        connector_id: the connector.
        on_rival: called while this process captures, when another one does that takes precedence.
    """

    def __init__(self, bus: EventBus, connector_id: str, on_rival: Callable[[], None]) -> None:
        self.rival: Rival | None = None
        """The process that takes precedence, as far as one was heard; None if there is none."""
        self._bus = bus
        self._connector_id = connector_id
        self._on_rival = on_rival
        self._instance = uuid.uuid4().hex
        self._since = bus.clock.time()
        self._captures = False
        self._heard = asyncio.Event()
        self._left = asyncio.Event()
        self._subscription: str | None = None
        self._answer = ANSWER_LOCAL if Capability.RETENTION in bus.capabilities else ANSWER

    async def alone(self) -> bool:
        """Ask once, and return whether no other process takes precedence. Then this process counts as the one that captures.

        Raises:
            DimeshError: the bus cannot be used.
        """
        if self._subscription is None:
            await self._open()
        self._captures = await self._ask()
        return self._captures

    async def wait(self) -> None:
        """Return when no other process takes precedence, after :meth:`alone` has found one."""
        unanswered = 0
        while unanswered < UNANSWERED:
            self._left.clear()
            with contextlib.suppress(TimeoutError):
                async with time_limit(self._bus.clock, ASK_AGAIN):
                    await self._left.wait()
            left = self._left.is_set()
            try:
                alone = await self._ask()
            except DimeshError as error:
                log.warning("%s: cannot ask whether another process captures: %s", self._connector_id, error)
                continue
            unanswered = unanswered + 1 if alone else 0
            if alone and left:
                break
        self._captures = True

    async def _ask(self) -> bool:
        self.rival = None
        self._heard.clear()
        await self._publish("ask")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._answer):
                await self._heard.wait()
        return self.rival is None

    async def remind(self) -> None:
        """Ask now and then, without end, so that processes which capture at the same time find out."""
        while True:
            await self._bus.clock.sleep(REMIND)
            with contextlib.suppress(DimeshError):
                await self._publish("ask")

    async def close(self) -> None:
        """Leave: a process that waits takes over at once."""
        if self._subscription is None:
            return
        with contextlib.suppress(DimeshError, TimeoutError):
            async with asyncio.timeout(ANSWER):
                if self._captures:
                    await self._publish("gone")
                await self._bus.unsubscribe(self._subscription)
        self._captures = False
        self._subscription = None

    async def _open(self) -> None:
        self._bus.admit_own_topic(TOPIC)
        with contextlib.suppress(DimeshError):  # it exists, or is created at its first use
            await self._bus.door.create_topic(TOPIC, bounded_topic(self._bus.capabilities, 3_600.0, _KEPT))
        self._subscription = await self._bus.subscribe(
            TOPIC, self._hear, f"presence-{self._connector_id}-{self._instance}", alone=True
        )

    async def _publish(self, kind: str) -> None:
        payload = {
            "kind": kind,
            "connector_id": self._connector_id,
            "instance": self._instance,
            "process": process_name(),
            "since": self._since,
            "captures": self._captures,
        }
        await self._bus.publish(TOPIC, Event(PRESENCE_TYPE, None, payload), key=self._connector_id)

    async def _hear(self, event: Event) -> None:
        payload = event.payload if isinstance(event.payload, dict) else {}
        found = _rival(payload)
        if payload.get("connector_id") != self._connector_id or found is None:
            return
        if found.instance == self._instance:
            return
        if payload.get("kind") == "gone":
            if self.rival is not None and self.rival.instance == found.instance:
                self._left.set()
        elif found.rank < (not self._captures, self._since, self._instance):
            self.rival = found
            self._heard.set()
            if self._captures:
                self._captures = False
                self._on_rival()
        elif payload.get("kind") == "ask":
            try:
                await self._publish("here")
            except DimeshError as error:  # the other one asks again
                log.warning("%s: cannot answer %s: %s", self._connector_id, printable(found.process), error)


def _rival(payload: dict[str, Any]) -> Rival | None:
    """Return the process that a record speaks of; None if it is not a record of presence."""
    instance, process, since = payload.get("instance"), payload.get("process"), payload.get("since")
    if not isinstance(instance, str) or not isinstance(process, str) or not isinstance(since, (int, float)):
        return None
    return Rival(instance, process, float(since), payload.get("captures") is True)
