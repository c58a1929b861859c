"""Webhooks as wake-ups: a webhook that any process receives goes over the bus to the process that captures, whose source then
reads at once what changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from dimesh.bus.engine import EventBus
from dimesh.errors import DimeshError
from dimesh.events.event import Event
from dimesh.spi.cdc import WebhookSource
from dimesh.tasks import finish

log = logging.getLogger("dimesh.cdc")

TOPIC: Final = "dimesh.wakeups"
WAKE_UP_TYPE: Final = "cdc.wakeup"
PREFIX: Final = "/webhooks"
"""The path below which each source has a path of its own."""
_MOST_PENDING: Final = 1_000


@dataclass(frozen=True, slots=True)
class WakeUp:
    """A hint that a source has something new to read. It carries no data: one that is lost or doubled does no harm."""

    source: str
    kind: str
    """The kind of what happened, in the source's own terms."""

    def to_event(self) -> Event:
        """Return the event that carries this wake-up over the bus."""
        return Event(WAKE_UP_TYPE, None, asdict(self))

    @classmethod
    def from_event(cls, event: Event) -> WakeUp:
        """Return the wake-up that an event carries; one for no source if it carries none."""
        payload = event.payload if isinstance(event.payload, dict) else {}
        return cls(str(payload.get("source", "")), str(payload.get("kind", "")))


async def listen(bus: EventBus, sources: Mapping[str, WebhookSource]) -> str:
    """Pass wake-ups from the bus to these sources; return the subscription's id.

    Earlier wake-ups are of no use: a source reads what is new when it starts.

    Args:
        bus: an open bus.
        sources: by name.
    """

    def wake(event: Event) -> None:
        wake_up = WakeUp.from_event(event)
        source = sources.get(wake_up.source)
        if source is not None:
            source.hint(wake_up.kind)

    bus.admit_own_topic(TOPIC)
    return await bus.subscribe(TOPIC, wake, f"wakeups-{id(sources):x}", alone=True)


class WebhookGateway:
    """An ASGI application that receives webhooks for each source at ``/webhooks/<name>`` and publishes wake-ups.

    Args:
        bus: receives the wake-ups, in its topic ``dimesh.wakeups``.
        sources: by name.

    Raises:
        ConfigurationError: the options of a source lack what signatures are checked with.
    """

    def __init__(self, bus: EventBus, sources: Mapping[str, WebhookSource]) -> None:
        self._bus = bus
        bus.admit_own_topic(TOPIC)
        self._pending: set[asyncio.Task[None]] = set()
        self.lost = 0
        """The number of wake-ups that could not be published; the next poll finds what they were about."""
        self.paths = {f"{PREFIX}/{name}": name for name in sources}
        """The names of the sources by path."""
        self._apps: dict[str, Callable[..., Awaitable[None]]] = {
            path: sources[name].webhooks(self._publisher(name), path) for path, name in self.paths.items()
        }

    def _publisher(self, source: str) -> Callable[[str], object]:
        def publish(kind: str) -> None:
            if len(self._pending) >= _MOST_PENDING:
                self.lost += 1
                return
            publishing = self._publish(WakeUp(source, kind))
            task = asyncio.get_running_loop().create_task(publishing, name="dimesh-wakeup")
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

        return publish

    async def _publish(self, wake_up: WakeUp) -> None:
        try:
            await self._bus.publish(TOPIC, wake_up.to_event(), key=wake_up.source)
        except DimeshError as error:
            self.lost += 1
            log.warning("a wake-up for %s could not be published: %s", wake_up.source, error)

    async def drain(self) -> None:
        """Return when no wake-up is pending."""
        await finish(asyncio.gather(*self._pending, return_exceptions=True), "publishing the last wake-ups")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one request. See the ASGI specification."""
        app = self._apps.get(scope.get("path", ""))
        if app is not None and scope["type"] == "http":
            # The source's application knows the whole path, so it is not mounted at a part of it.
            await app({**scope, "root_path": scope.get("root_path", "").removesuffix(PREFIX)}, receive, send)
        elif scope["type"] == "http":
            headers = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 404, "headers": headers})
            await send({"type": "http.response.body", "body": b"no source receives webhooks here"})
