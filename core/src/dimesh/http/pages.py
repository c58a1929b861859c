"""Small pages for machines: health, readiness, metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from dimesh.http.body import ASGIApp, Receive, Send


@dataclass(frozen=True, slots=True)
class Response:
    """A complete response."""

    status: int
    content_type: str
    body: bytes


class Page:
    """An ASGI application that answers GET and HEAD at the path where it is mounted.

    Args:
        respond: returns the response.
    """

    def __init__(self, respond: Callable[[], Awaitable[Response]]) -> None:
        self._respond = respond

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Handle one request. See the ASGI specification."""
        if scope["path"] != scope.get("root_path", ""):
            response = text(404, "not found")
        elif scope["method"] not in ("GET", "HEAD"):
            response = text(405, "use GET")
        else:
            response = await self._respond()
        await _send(send, response, body=scope["method"] != "HEAD")


class Gate:
    """An ASGI application that passes requests on while it has an application, and answers 503 while it has none."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Handle one request. See the ASGI specification."""
        if self.app is not None:
            await self.app(scope, receive, send)
        else:
            await _send(send, text(503, "starting or stopping"), body=scope["method"] != "HEAD")


def text(status: int, words: str) -> Response:
    """Return a response of plain text."""
    return Response(status, "text/plain; charset=utf-8", f"{words}\n".encode())


async def _send(send: Send, response: Response, *, body: bool) -> None:
    headers = [
        (b"content-type", response.content_type.encode()),
        (b"content-length", b"%d" % len(response.body)),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body if body else b""})
