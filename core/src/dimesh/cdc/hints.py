"""Webhooks as a doorbell: who takes them tells the mesh over the bus, and the source looks at once, wherever it runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from dimesh.bus.engine import EventBus
from dimesh.errors import DimeshError
from dimesh.events.event import Event
from dimesh.spi.cdc import WebhookSource

log = logging.getLogger("dimesh.cdc")

TOPIC: Final = "cdc.hints"
HINT_TYPE: Final = "cdc.hint"
_MOST_WAITING: Final = 1_000


async def listen(bus: EventBus, sources: Mapping[str, WebhookSource]) -> str:
    """Pass on hints for these sources, by name. Those from before are of no use: the stream looks at its start anyway."""

    def ring(event: Event) -> None:
        payload = event.payload
        source = sources.get(str(payload.get("source"))) if isinstance(payload, dict) else None
        if source is not None:
            source.hint(str(payload.get("kind", "")))

    return await bus.subscribe(TOPIC, ring, f"hints-{id(sources):x}", alone=True)


class Doorbell:
    """An ASGI application with a path for each source: ``/webhooks/<name>``.

    Args:
        bus: hints go to its topic ``cdc.hints``.
        sources: by name.

    Raises:
        ConfigurationError: a source lacks what a signature is checked with.
    """

    def __init__(self, bus: EventBus, sources: Mapping[str, WebhookSource]) -> None:
        self._bus = bus
        self._tasks: set[asyncio.Task[None]] = set()
        self.lost = 0
        """Hints that could not be passed on: the next look finds what they were about."""
        self.paths = {f"/webhooks/{name}": name for name in sources}
        self._apps: dict[str, Callable[..., Awaitable[None]]] = {
            path: sources[name].webhooks(self._teller(name), path) for path, name in self.paths.items()
        }

    def _teller(self, name: str) -> Callable[[str], object]:
        def tell(kind: str) -> None:
            if len(self._tasks) >= _MOST_WAITING:
                self.lost += 1
                return
            task = asyncio.get_running_loop().create_task(self._tell(name, kind), name="dimesh-hint")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return tell

    async def _tell(self, name: str, kind: str) -> None:
        try:
            await self._bus.publish(TOPIC, Event(HINT_TYPE, None, {"source": name, "kind": kind}), key=name)
        except DimeshError as error:
            self.lost += 1
            log.warning("a hint for %s was not passed on: %s", name, error)

    async def drain(self) -> None:
        """Return when every hint is passed on."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See the ASGI specification."""
        app = self._apps.get(scope.get("path", ""))
        if app is not None and scope["type"] == "http":
            await app(scope, receive, send)
        elif scope["type"] == "http":
            headers = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 404, "headers": headers})
            await send({"type": "http.response.body", "body": b"no source takes webhooks here"})
