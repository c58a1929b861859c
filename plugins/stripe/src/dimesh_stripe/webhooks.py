"""Webhooks as hints: they say that there is something to read, and nothing is taken from them but that.

Stripe sends them at least once and in any order, and gives up after three days; the feed of events has all of them, in
one place. So a webhook only wakes the source, which then reads the feed. A forged or replayed one could at most cause a
request, and is refused before that.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from dimesh.clock import Clock, SystemClock
from dimesh_stripe.signatures import TOLERANCE, SignatureError, verify

log = logging.getLogger("dimesh.cdc.stripe")

MAX_BODY: Final = 1_000_000
_MOST_IDS: Final = 10_000


class WebhookReceiver:
    """Takes webhooks; :meth:`app` is an ASGI application to mount or to serve.

    Args:
        hint: is called with the event's type, once for each event.
        secrets: ``whsec_…`` of the endpoint; more than one while it is rotated.
        tolerance: seconds that a signature may be old.
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
        """Webhooks that were signed rightly."""
        self.refused = 0
        """Those that were not, or too large, or no events."""
        self.repeated = 0
        """Those that had come before."""

    def app(self, path: str = "/webhooks/stripe") -> Starlette:
        """An ASGI application that takes POSTs at ``path``."""
        return Starlette(routes=[Route(path, self._receive, methods=["POST"])])

    async def _receive(self, request: Request) -> Response:
        body = bytearray()
        try:
            async for piece in request.stream():
                body += piece
                if len(body) > MAX_BODY:
                    return self._no(413, "too large")
        except ClientDisconnect:
            return self._no(400, "cut off")
        try:
            kind, id = self.take(bytes(body), request.headers.get("stripe-signature", ""))
        except SignatureError as error:
            return self._no(400, str(error))
        log.debug("webhook %s %s", kind, id)
        return PlainTextResponse("ok")

    def take(self, body: bytes, header: str) -> tuple[str, str]:
        """Take a webhook; returns the event's type and id.

        Raises:
            SignatureError: not signed by Stripe, too long ago, or no event.
        """
        now = self._clock.time()
        verify(body, header, self._secrets, now, self._tolerance)
        try:
            found: Any = json.loads(body)
            kind, id = str(found["type"]), str(found["id"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise SignatureError("signed, and no event") from error
        self.received += 1
        if self._known(id, now):
            self.repeated += 1
        else:
            self._hint(kind)
        return kind, id

    def _known(self, id: str, now: float) -> bool:
        # A replay can only be as old as the tolerance: nothing older needs to be remembered.
        while self._seen and (
            len(self._seen) >= _MOST_IDS or next(iter(self._seen.values())) < now - 2 * self._tolerance
        ):
            self._seen.popitem(last=False)
        if id in self._seen:
            return True
        self._seen[id] = now
        return False

    def _no(self, status: int, text: str) -> Response:
        self.refused += 1
        log.warning("a webhook was refused: %s", text)
        return PlainTextResponse(text, status)
