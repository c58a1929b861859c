"""An HTTP server on loopback that can also break a connection, as a network does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import Any, Final

import uvicorn

from dimesh.errors import ListenError

HOST: Final = "127.0.0.1"
BREAK: Final = "dimesh.sandbox.break"
"""The key of the request's scope that holds a function: it closes the connection, or with ``reset=True`` resets it."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class _Server(uvicorn.Server):
    """uvicorn's server, inside a program that keeps its own signal handlers.

    It stops at once. uvicorn sleeps twice for a tenth of a second, which the tests of a plugin would pay for each sandbox.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self.ending = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        ticks = 0
        while not await self.on_tick(ticks):
            ticks += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self.ending.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()


class LoopbackServer:
    """A server of an ASGI application on loopback, in the running event loop.

    Args:
        idle_timeout: seconds after which an idle connection is closed.
        certificate: the files of a certificate and its key, for TLS.
    """

    def __init__(self, *, idle_timeout: int = 5, certificate: tuple[str, str] | None = None) -> None:
        self._idle_timeout = idle_timeout
        self._certificate = certificate
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self, app: Any, port: int) -> int:
        """Serve an ASGI application at a port, or with 0 at a free one; return the port.

        Raises:
            ListenError: the port is in use, or may not be used.
        """
        listener = bind(port)
        try:
            files: dict[str, Any] = (
                {"ssl_certfile": self._certificate[0], "ssl_keyfile": self._certificate[1]}
                if self._certificate
                else {}
            )
            # Headers of proxies would replace the client's address, by which a connection is found again.
            config = uvicorn.Config(
                self._breakable(app), http="h11", log_config=None, lifespan="off", ws="none", proxy_headers=False,
                date_header=False,  # the sandbox sends the time of the system that it stands for
                timeout_keep_alive=self._idle_timeout, **files,
            )  # fmt: skip
            config.load()
        except BaseException:
            listener.close()
            raise
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve([listener]), name="sandbox-http")
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait((self._serving, ready), return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            listener.close()
            self._serving.result()
        bound: int = listener.getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Stop listening, and break every connection: a client that keeps one open is not waited for."""
        if self._server is None or self._serving is None:
            return
        self._server.should_exit = self._server.force_exit = True
        self._server.ending.set()
        for connection in tuple(self._server.server_state.connections):
            connection.transport.abort()
        await asyncio.gather(self._serving, return_exceptions=True)
        self._server = self._serving = None

    def _breakable(self, app: Any) -> Any:
        async def serve(scope: Any, receive: Any, send: Any) -> None:
            client = scope["client"]
            scope[BREAK] = lambda reset=False: self._break(client, reset)
            await app(scope, receive, send)

        return serve

    def _break(self, client: Any, reset: bool) -> None:
        assert self._server is not None
        connection: Any
        for connection in self._server.server_state.connections:
            if connection.client == client:
                transport = connection.transport
                if reset:
                    peer = transport.get_extra_info("socket")
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                    transport.abort()
                else:
                    transport.close()
                return


def bind(port: int) -> socket.socket:
    """Return a listening socket of loopback.

    Raises:
        ListenError: the port is in use, or may not be used.
    """
    try:
        listener = socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        raise listen_error(port, getattr(error, "strerror", None) or str(error)) from error
    # asyncio does this for sockets that name their protocol only, and these do not. Without it, an answer in two parts waits for
    # the client's delayed acknowledgement: 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def listen_error(port: int, reason: str) -> ListenError:
    """Return the error for a port that cannot be listened at."""
    return ListenError(f"cannot listen at {HOST}:{port}: {reason}. Choose another port, or 0 for a free one")
