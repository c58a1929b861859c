from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dimesh.http.host import HttpHost
from dimesh.http.limits import HttpLimits

QUICK = HttpLimits(header_timeout=0.3, body_timeout=0.3, write_timeout=0.3, keep_alive=0.3, stop_timeout=0.3)
Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter


class App:
    """Answers each path in its own way, and counts what it has seen."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.disconnected = 0
        self.started = asyncio.Event()
        self.release = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnected += 1
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.bodies.append(body)
        if scope["path"].endswith("/wait"):
            self.started.set()
            await self.release.wait()
        answer = b"x" * 20_000_000 if scope["path"].endswith("/large") else b"ok"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answer})


@asynccontextmanager
async def connected(host: HttpHost) -> AsyncIterator[tuple[Reader, Writer]]:
    """A bare connection to a host."""
    reader, writer = await asyncio.open_connection(*host.url.removeprefix("http://").split(":"))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def rest(reader: Reader) -> bytes:
    """All that comes until the host closes the connection, whichever way."""
    found = b""
    try:
        while piece := await reader.read(65_536):
            found += piece
    except ConnectionResetError:
        pass
    return found


async def post(host: HttpHost, path: str = "/app", body: bytes = b"{}") -> bytes:
    """Send a whole request on a connection of its own; returns the status line."""
    async with connected(host) as (reader, writer):
        writer.write(
            b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(body)) + body
        )
        return (await reader.readline()).rstrip()


Serve = Callable[..., Awaitable[HttpHost]]


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
async def serve(app: App) -> AsyncIterator[Serve]:
    """Starts hosts that serve ``app`` at /app, and stops them."""
    started: list[HttpHost] = []

    async def start(limits: HttpLimits = QUICK, **options: Any) -> HttpHost:
        host = HttpHost([("/app", app)], **{"port": 0, "limits": limits, **options})
        await host.start()
        started.append(host)
        return host

    yield start
    for host in started:
        await host.stop()
