"""Request and reply over the bus: a request names the topic where its sender listens."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from dimesh.bus import headers as h
from dimesh.bus.handler import EventHandler
from dimesh.bus.options import SubscriptionOptions
from dimesh.errors import BusClosedError, BusError, RequestTimeoutError
from dimesh.events.event import Event
from dimesh.events.ids import new_event_id
from dimesh.events.metadata import EventMetadata
from dimesh.spi.bus import StartAt, TopicConfig

if TYPE_CHECKING:
    from dimesh.bus.engine import EventBus

REPLY_PREFIX: Final = "dimesh.replies."
REPLY_RETENTION: Final = 3_600.0
"""Seconds after which replies nobody fetched (their requester crashed) may go."""


class RemoteError(BusError):
    """The handler of a request failed for good; the message is its dead letter's reason."""


class Requests:
    """The requests of one bus that wait for their replies."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._waiting: dict[str, asyncio.Future[Event]] = {}
        self._topic = REPLY_PREFIX + new_event_id()
        self._ready: asyncio.Task[str] | None = None

    async def request(self, topic: str, event: Event, timeout: float, key: str | None) -> Event:
        """Publish ``event`` and return the first reply.

        Raises:
            RequestTimeoutError: none came in time.
            RemoteError: the handler failed for good.
        """
        await self._listen()
        correlation = event.metadata.event_id
        future: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self._waiting[correlation] = future
        timer = self._bus.clock.call_later(timeout, lambda: future.done() or future.cancel())
        try:
            await self._bus.publish(
                topic, event.replace(headers={**event.headers, h.REPLY_TO: self._topic}), key=key
            )
            reply = await future
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            if self._bus.closed:
                raise BusClosedError("the bus was closed while a request waited for its reply") from None
            raise RequestTimeoutError(
                f"no reply to {event.event_type.value} on {topic!r} within {timeout:g} s: is a handler subscribed "
                "there, and does it return a value?"
            ) from None
        finally:
            timer.cancel()
            del self._waiting[correlation]
        error = reply.headers.get(h.REPLY_ERROR)
        if error is not None:
            raise RemoteError(str(error))
        return reply

    async def _listen(self) -> None:
        if self._ready is None:
            self._ready = asyncio.create_task(self._subscribe())
        try:
            await asyncio.shield(self._ready)
        except BaseException:
            if self._ready.done():
                self._ready = None
            raise

    async def _subscribe(self) -> str:
        backend = self._bus.backend
        await backend.create_topic(self._topic, TopicConfig(partitions=1, retention_seconds=REPLY_RETENTION))
        return await self._bus.subscribe(
            self._topic,
            EventHandler(self._receive, name="dimesh.replies"),
            start=StartAt.LATEST,
            alone=True,
            options=SubscriptionOptions(handler_timeout=None, dedup_window=0),
        )

    async def _receive(self, reply: Event) -> None:
        future = self._waiting.get(reply.metadata.correlation_id or "")
        if future is not None and not future.done():
            future.set_result(reply)

    async def close(self) -> None:
        """Give up what waits; remove the reply topic."""
        for future in self._waiting.values():
            if not future.done():
                future.cancel()
        if self._ready is not None and self._ready.done() and not self._ready.cancelled():
            try:
                await self._bus.backend.delete_topic(self._topic)
            except BusError:
                pass  # retention removes it


def reply_to(request: Event, result: Any, error: str | None = None) -> Event:
    """The reply event: the handler's own, or one that carries what it returned as payload."""
    asked = request.metadata
    if isinstance(result, Event):
        metadata = _with(result.metadata, correlation_id=asked.event_id, causation_id=asked.event_id)
        return result.replace(metadata=metadata)
    metadata = EventMetadata(
        trace_id=asked.trace_id,
        parent_span_id=asked.span_id,
        source_pillar=asked.target_pillar or "",
        source_agent=asked.target_agent or "",
        target_pillar=asked.source_pillar or None,
        target_agent=asked.source_agent or None,
        correlation_id=asked.event_id,
        causation_id=asked.event_id,
    )
    headers = {h.REPLY_ERROR: error} if error is not None else None
    return Event(f"{request.event_type.value}.reply", metadata, result, headers=headers)


def _with(metadata: EventMetadata, **changes: Any) -> EventMetadata:
    from msgspec.structs import replace

    return replace(metadata, **changes)
