"""Limits of request bodies: their size and the time they take, enforced while they are read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application. Its parameters are Any: frameworks type them in different ways."""

LINGER: Final = 1.0
"""Seconds in which the rest of a body that is too large is read and dropped: a client that is still sending would otherwise
see a reset connection instead of the response."""


Refusal: TypeAlias = tuple[bytes, bytes]
"""The content type and the body of a response."""
WordedAs: TypeAlias = Callable[[str], Callable[[int, str], Refusal]]
"""Returns the function that words a refusal (status and text) as the application at a path does."""


def plain_refusal(status: int, text: str) -> Refusal:
    """Return a refusal as plain text."""
    return b"text/plain; charset=utf-8", text.encode()


class BodyLimits:
    """Middleware that answers 413 to a body that is too large, and 408 to one that does not arrive in time.

    The application then sees that the client has disconnected.

    Args:
        app: the application.
        size: the most bytes of a body.
        timeout: the seconds for a body, from the end of the header.
        worded: words the refusals at a path; by default they are plain text.
    """

    def __init__(
        self, app: ASGIApp, size: int, timeout: float, worded: WordedAs = lambda path: plain_refusal
    ) -> None:
        self._app = app
        self._size = size
        self._timeout = timeout
        self._worded = worded

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Handle one request. See the ASGI specification."""
        request = _Request(receive, send, self._size, self._timeout, lambda: self._worded(scope["path"]))
        if _declared_size(scope) > self._size:
            await request.refuse(413, f"a body may have {self._size:,} bytes", linger=True)
        else:
            await self._app(scope, request.receive, request.send)


class _Request:
    def __init__(
        self,
        receive: Receive,
        send: Send,
        size: int,
        timeout: float,
        worded: Callable[[], Callable[[int, str], Refusal]],
    ) -> None:
        self._worded = worded
        self._receive = receive
        self._send = send
        self._limit = size
        self._size = 0
        self._deadline = asyncio.get_running_loop().time() + timeout
        self._complete = False
        self._started = False
        self._refused = False

    async def receive(self) -> Message:
        if self._refused:
            return {"type": "http.disconnect"}
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            await self.refuse(408, "the body did not arrive in time")
            return {"type": "http.disconnect"}
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if self._size > self._limit:
                await self.refuse(413, f"a body may have {self._limit:,} bytes", linger=not self._complete)
                return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        if not self._refused:
            self._started = True
            await self._send(message)

    async def refuse(self, status: int, text: str, *, linger: bool = False) -> None:
        self._refused = True
        if self._started:  # the server closes the connection of a response that stays incomplete
            return
        content_type, body = self._worded()(status, text)
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (b"content-type", content_type),
                    (b"content-length", b"%d" % len(body)),
                    (b"connection", b"close"),
                ],
            }
        )
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        if linger:
            try:
                async with asyncio.timeout(LINGER):
                    while (await self._receive()).get("more_body", False):
                        pass
            except TimeoutError:
                pass
        await self._send({"type": "http.response.body", "body": b""})


def response_start(status: int, text: str) -> Message:
    """Return the message that starts a response of plain text."""
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(text.encode())),
    ]
    return {"type": "http.response.start", "status": status, "headers": headers}


def _declared_size(scope: Any) -> int:
    """Return the declared size of the body; 0 where none is declared. The server has checked the header's syntax."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
