"""A server that answers with exactly the bytes that a test gives it."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from dimesh.sourcekit.addresses import Origin

Respond = Callable[[asyncio.StreamWriter], Awaitable[None]]


def http(body: bytes = b"{}", status: str = "200 OK", **headers: str) -> bytes:
    """Return an answer; a header's name has underscores in place of hyphens."""
    given = {"content_type": "application/json", "content_length": len(body), **headers}
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in given.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class RawServer:
    """Answers each request with the next of its answers, and the last one for ever."""

    def __init__(self, *answers: bytes | Respond) -> None:
        self._answers = list(answers)
        self.requests: list[str] = []
        """The heads of the requests."""
        self.origin = Origin("http", "127.0.0.1", 0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head.decode())
                if (length := re.search(rb"content-length: (\d+)", head, re.IGNORECASE)) is not None:
                    await reader.readexactly(int(length[1]))
                answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    @asynccontextmanager
    async def run(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
        tasks: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
        port = server.sockets[0].getsockname()[1]
        self.origin = Origin("https" if tls else "http", "localhost" if tls else "127.0.0.1", port)
        try:
            yield self
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
