"""Records every event that a bus handles, single ones and batches alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from dimesh.events.event import Event
from dimesh.spi.interceptor import HandleNext, Handling

if TYPE_CHECKING:
    from dimesh.lineage.service import LineageService

OWN_TOPICS: Final = "dimesh."
"""The beginning of the names of topics that dimesh uses by itself, such as those of replies: nobody asks where they came from."""


class LineageInterceptor:
    """Tracks events once their handler has succeeded.

    Args:
        service: returns the lineage service; called when the first event is handled, so that a bus that handles nothing
            opens no log.
    """

    def __init__(self, service: Callable[[], LineageService]) -> None:
        self._service = service
        self._opening = False

    async def handle(self, handling: Handling, events: Sequence[Event], call_next: HandleNext) -> Any:
        """Call the handler, then track the events."""
        result = await call_next(events)
        if not handling.topic.startswith(OWN_TOPICS):
            service = self._service()
            if not self._opening:
                # So that observations are written as they come and not when the process ends, which a kill would prevent.
                self._opening = True
                service.open_in_background()
            for event in events:
                service.track_event_nowait(event)
        return result
