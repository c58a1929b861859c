"""Our own server on the loopback interface, and a server that answers as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dimesh.backends.registry.memory import MemoryStore
from dimesh.clock import SystemClock
from dimesh.http.host import HttpHost
from dimesh.http.limits import HttpLimits
from dimesh.registry.engine import SchemaRegistry
from dimesh.registry.rest import MAX_BODY, Access, RegistryApp


@contextlib.asynccontextmanager
async def hosted(app: Any, port: int = 0, certificate: Path | None = None) -> AsyncIterator[str]:
    """Serve an application, and yield its address."""
    host = HttpHost(
        [("", app)], port=port, certificate=certificate, limits=HttpLimits(body_size=2 * MAX_BODY)
    )
    async with host as serving:
        yield serving.url


def registry_app(access: Access | None = None) -> RegistryApp:
    """Return our registry in memory, as an application."""
    return RegistryApp(SchemaRegistry(MemoryStore(SystemClock()), policy="tolerant"), access)


@dataclass
class Request:
    """A request that was received."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]


@dataclass
class Scripted:
    """An application that answers as a function says, and keeps the requests."""

    answer: Callable[[Request], Answer | Awaitable[Answer]]
    requests: list[Request] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        raw = scope.get("raw_path") or scope["path"].encode()
        request = Request(
            scope["method"], raw.partition(b"?")[0].decode(), scope["query_string"].decode(), headers, body
        )
        self.requests.append(request)
        answer: Any = self.answer(request)
        if asyncio.iscoroutine(answer):
            answer = await answer
        status, content, *more_headers = answer
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        fields = [(b"content-length", str(len(data)).encode())]
        fields += [(n.encode(), v.encode()) for n, v in (more_headers[0] if more_headers else {}).items()]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": data})
