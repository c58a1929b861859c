"""Receives the signed webhooks of a system, and uses them as wake-ups only.

A webhook may come late, twice or never, and anybody can send one. So it only makes the source read at once what changed, and one
without a valid signature, one that is too large and one that was received before do not even do that.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from dimesh.clock import Clock, SystemClock
from dimesh.errors import CDCError
from dimesh.logs.repeats import RepeatFilter

if TYPE_CHECKING:  # a source whose webhooks nobody receives does not need it
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

TOLERANCE: Final = 300.0
"""The greatest age of a signature in seconds, unless the system prescribes another one."""
MAX_BODY: Final = 1_000_000
"""The greatest size of a webhook in bytes."""
_MAX_IDS: Final = 10_000


class SignatureError(CDCError):
    """A webhook was not signed by the system, is too old, or is not one."""


class SignedWebhooks(ABC):
    """Receives webhooks; :meth:`app` returns an ASGI application to mount or serve.

    Args:
        hint: called with the kind of what happened, once for each webhook that was not received before.
        secrets: the signing secrets; more than one while they are rotated.
        tolerance: the greatest age of a signature in seconds.
        clock: time.

    Raises:
        ValueError: there is no secret, or the secrets are a single text.
    """

    default_path: str
    """The path at which webhooks are accepted, if the caller names none."""
    log: logging.Logger
    """The logger of what is accepted and refused; see :func:`webhook_log`."""

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
        self.secrets = list(secrets)
        self.tolerance = tolerance
        self._hint = hint
        self._clock = clock or SystemClock()
        self._seen: OrderedDict[str, float] = OrderedDict()
        self.received = 0
        """The number of webhooks that were accepted, those received before included."""
        self.refused = 0
        """The number of webhooks that had no valid signature, were too large, or were none."""
        self.repeated = 0
        """The number of webhooks that had been received before."""

    @abstractmethod
    def checked(self, body: bytes, headers: Mapping[str, str], now: float) -> tuple[str, str]:
        """Return the kind of what happened, and the id by which the same webhook is recognised.

        Args:
            body: the body as it arrived, byte for byte.
            headers: the headers, found by lower-case names.
            now: the time in seconds since the epoch.

        Raises:
            SignatureError: the webhook has no valid signature, is too old, or is none.
        """
        ...

    def app(self, path: str | None = None) -> Starlette:
        """Return an ASGI application that accepts POSTs at ``path``."""
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(routes=[Route(path or self.default_path, self._receive, methods=["POST"])])

    def accept(self, body: bytes, headers: Mapping[str, str]) -> tuple[str, str]:
        """Accept a webhook, call the hint unless it was received before, and return its kind and id.

        Raises:
            SignatureError: see :meth:`checked`.
        """
        now = self._clock.time()
        kind, id = self.checked(body, headers, now)
        self.received += 1
        if self._seen_before(id, now):
            self.repeated += 1
        else:
            self._hint(kind)
        return kind, id

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
            kind, id = self.accept(bytes(body), request.headers)
        except SignatureError as error:
            return self._refuse(400, str(error))
        self.log.debug("webhook %s %s", kind, id)
        return PlainTextResponse("ok")

    def _seen_before(self, id: str, now: float) -> bool:
        # A replay cannot be older than the tolerance: older ids need not be remembered.
        while self._seen and (
            len(self._seen) >= _MAX_IDS or next(iter(self._seen.values())) < now - 2 * self.tolerance
        ):
            self._seen.popitem(last=False)
        if id in self._seen:
            return True
        self._seen[id] = now
        return False

    def _refuse(self, status: int, text: str) -> Response:
        from starlette.responses import PlainTextResponse

        self.refused += 1
        self.log.warning("a webhook was refused: %s", text)
        return PlainTextResponse(text, status)


def webhook_log(name: str) -> logging.Logger:
    """Return the logger for the webhooks of a system; it repeats itself rarely, since anybody can send what is refused."""
    log = logging.getLogger(name)
    log.addFilter(RepeatFilter())
    return log
