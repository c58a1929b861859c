"""Receives webhooks, and uses them as wake-ups only.

Stripe sends webhooks at least once and in any order, and gives up after three days; the feed of events has all events in one
place. So a webhook only wakes the source, which then reads the feed. A forged or replayed one could at most cause a
request, and is refused before that.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from dimesh.clock import Clock, SystemClock
from dimesh.logs.repeats import RepeatFilter
from dimesh_stripe.signatures import TOLERANCE, SignatureError, verify

if TYPE_CHECKING:  # a source whose webhooks nobody receives does not need it
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger("dimesh.cdc.stripe.webhooks")
log.addFilter(RepeatFilter())  # anybody can send webhooks that are refused

MAX_BODY: Final = 1_000_000
_MAX_IDS: Final = 10_000


class WebhookReceiver:
    """Receives the webhooks of one endpoint; :meth:`app` returns an ASGI application to mount or serve.

    Args:
        hint: called with the event's type, once for each event.
        secrets: the signing secrets of the endpoint, ``whsec_…``; more than one while they are rotated.
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
            raise ValueError("secrets must be a list with the endpoint's signing secret(s), whsec_…")
        self._hint = hint
        self._secrets = list(secrets)
        self._tolerance = tolerance
        self._clock = clock or SystemClock()
        self._seen: OrderedDict[str, float] = OrderedDict()
        self.received = 0
        """The number of webhooks with a valid signature."""
        self.refused = 0
        """The number of webhooks that had no valid signature, were too large, or were not events."""
        self.repeated = 0
        """The number of webhooks whose event had been received before."""

    def app(self, path: str = "/webhooks/stripe") -> Starlette:
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
        try:
            kind, id = self.take(bytes(body), request.headers.get("stripe-signature", ""))
        except SignatureError as error:
            return self._refuse(400, str(error))
        log.debug("webhook %s %s", kind, id)
        return PlainTextResponse("ok")

    def take(self, body: bytes, header: str) -> tuple[str, str]:
        """Accept a webhook, and return the event's type and id.

        Raises:
            SignatureError: the webhook was not signed by Stripe, is too old, or is not an event.
        """
        now = self._clock.time()
        verify(body, header, self._secrets, now, self._tolerance)
        try:
            found: Any = json.loads(body)
            kind, id = str(found["type"]), str(found["id"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise SignatureError("the webhook is signed, but it is not an event") from error
        self.received += 1
        if self._seen_before(id, now):
            self.repeated += 1
        else:
            self._hint(kind)
        return kind, id

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
