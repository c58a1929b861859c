"""Receives webhooks, and uses them as wake-ups only.

Zendesk sends webhooks in any order, sometimes twice and sometimes never; the exports have all changes. So a webhook only wakes
the source, which reads an export as soon as that shows the change.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from dimesh.clock import Clock, SystemClock
from dimesh.logs.repeats import RepeatFilter
from dimesh_zendesk.signatures import TOLERANCE, SignatureError, verify

if TYPE_CHECKING:  # a source whose webhooks nobody receives does not need it
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger("dimesh.cdc.zendesk.webhooks")
log.addFilter(RepeatFilter())  # anybody can send webhooks that are refused

MAX_BODY: Final = 1_000_000
_MAX_IDS: Final = 10_000
TRIGGERED: Final = "conditional_ticket_events"
"""The kind of a webhook that a trigger sent: its body is whatever the trigger's author wrote."""


class WebhookReceiver:
    """Receives webhooks; :meth:`app` returns an ASGI application to mount or serve.

    Args:
        hint: called with the kind of what happened, once for each event: ``zen:event-type:ticket.created``, or
            :data:`TRIGGERED` for a webhook of a trigger.
        secrets: the signing secrets of the webhooks; those of two while one is replaced.
        tolerance: the greatest age of a signature in seconds.
        clock: time.
    """

    def __init__(
        self,
        hint: Callable[[str], object],
        secrets: Sequence[str],
        *,
        tolerance: float = TOLERANCE,
        clock: Clock | None = None,
    ) -> None:
        if isinstance(secrets, str) or not secrets:
            raise ValueError("secrets must be a list with the signing secret(s) of the webhook")
        self._hint = hint
        self._secrets = list(secrets)
        self._tolerance = tolerance
        self._clock = clock or SystemClock()
        self._seen: OrderedDict[str, float] = OrderedDict()
        self.received = 0
        """The number of webhooks with a valid signature."""
        self.refused = 0
        """The number of webhooks without a valid signature, or too large."""
        self.repeated = 0
        """The number of webhooks whose event had been received before."""

    def app(self, path: str = "/webhooks/zendesk") -> Starlette:
        """Return an ASGI application that accepts POSTs at ``path``."""
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(routes=[Route(path, self._receive, methods=["POST"])])

    async def _receive(self, request: Request) -> Response:
        from starlette.requests import ClientDisconnect
        from starlette.responses import PlainTextResponse

        body = bytearray()
        try:
            async for piece in request.stream():
                body += piece
                if len(body) > MAX_BODY:
                    return self._refuse(413, "the body is too large")
        except ClientDisconnect:
            return self._refuse(400, "the body is cut off")
        headers = request.headers
        try:
            kind = self.take(
                bytes(body),
                headers.get("x-zendesk-webhook-signature", ""),
                headers.get("x-zendesk-webhook-signature-timestamp", ""),
            )
        except SignatureError as error:
            return self._refuse(400, str(error))
        log.debug("webhook %s", kind)
        return PlainTextResponse("ok")

    def take(self, body: bytes, signature: str, timestamp: str) -> str:
        """Accept a webhook, and return its kind.

        Raises:
            SignatureError: the webhook was not signed by Zendesk, or is too old.
        """
        now = self._clock.time()
        verify(body, signature, timestamp, self._secrets, now, self._tolerance)
        self.received += 1
        kind, id = TRIGGERED, ""
        try:
            found: Any = json.loads(body)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict) and str(found.get("type", "")).startswith("zen:event-type:"):
            kind, id = str(found["type"]), str(found.get("id", ""))
        # The signature does not cover the header with the invocation's id, so a replay is recognised by the signature itself; a
        # repeated delivery of an event has a signature of its own, and the same id in its body.
        if self._seen_before(id or signature, now):
            self.repeated += 1
        else:
            self._hint(kind)
        return kind

    def _seen_before(self, id: str, now: float) -> bool:
        # A replay cannot be older than the tolerance: older ids need not be remembered.
        while self._seen and (
            len(self._seen) >= _MAX_IDS or next(iter(self._seen.values())) < now - 2 * self._tolerance
        ):
            self._seen.popitem(last=False)
        if id in self._seen:
            return True
        self._seen[id] = now
        return False

    def _refuse(self, status: int, text: str) -> Response:
        from starlette.responses import PlainTextResponse

        self.refused += 1
        log.warning("a webhook was refused: %s", text)
        return PlainTextResponse(text, status)
