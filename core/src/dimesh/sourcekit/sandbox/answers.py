"""Answers that a healthy server does not give: late, cut off, broken."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from dimesh.sourcekit.sandbox.server import BREAK

JSON: Final = "application/json"
_LENGTH: Final = b"content-length"


class Reset(Response):
    """A connection that is reset before the answer begins."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope[BREAK](reset=True)
        await disconnected(receive)


class Truncated(Response):
    """An answer whose connection is closed after half of the body that ``Content-Length`` announces.

    Args:
        whole: the answer to cut.
    """

    def __init__(self, whole: Response) -> None:
        super().__init__(_body(whole), whole.status_code)
        # One byte more than there is, so that the shortest body is cut, too.
        length = (_LENGTH, str(len(self.body) + 1).encode())
        self.raw_headers = [length, *(pair for pair in whole.raw_headers if pair[0] != _LENGTH)]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        scope[BREAK]()
        await disconnected(receive)


def malformed(whole: Response) -> Response:
    """Return an answer that a proxy broke off with a page of its own: success, but neither JSON nor the API's headers."""
    body = _body(whole)
    return Response(body[: max(len(body) // 2, 1)] + b"\x00<html>", 200, media_type=JSON)


def proxy_page(status: int) -> Response:
    """Return the page of a proxy: HTML, whatever the client accepts."""
    headers = {"location": "http://login.invalid/"} if 300 <= status < 400 else {}
    page = f"<html><head><title>{status}</title></head><body><h1>The proxy says {status}</h1></body></html>"
    return Response(page, status, headers, media_type="text/html")


async def hang(request: Request) -> Response:
    """Wait until the client gives up."""
    await disconnected(request.receive)
    return Response(status_code=499)  # of nginx: the client closed the request


async def disconnected(receive: Any) -> None:
    """Wait until the connection has ended."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _body(answer: Response) -> bytes:
    return bytes(answer.body)
