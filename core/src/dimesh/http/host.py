"""The HTTP host: it starts, serves what is mounted, and stops within a bound."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from dimesh.errors import ConfigurationError
from dimesh.http import listener, tls
from dimesh.http.body import ASGIApp, BodyLimits
from dimesh.http.connections import Connection, Connections
from dimesh.http.limits import HEADER_SIZE, HttpLimits, affordable_connections
from dimesh.http.log import log
from dimesh.http.mounts import Mounts
from dimesh.tasks import end_tasks, finish

if TYPE_CHECKING:
    from dimesh.http.protocol import HostState

_ABORT_TIMEOUT: Final = 1.0
"""Seconds that aborted connections and cancelled requests get to end."""


class HttpHost:
    """Serves ASGI applications over HTTP, or HTTPS with a certificate.

    No client keeps others from being served, whatever it sends or leaves unsent: see :class:`HttpLimits`.

    Args:
        mounts: paths and the applications to mount there, see :class:`~dimesh.http.mounts.Mounts`.
        host: the name or address to listen on; empty: every interface.
        port: the port; 0 chooses a free one.
        certificate: a PEM file with the certificate chain; None: no TLS.
        key: a PEM file with the private key; None: it is in the certificate's file.
        limits: the limits.
        setting: the name of the setting of the port, for messages.

    Raises:
        ConfigurationError: a path to mount at is malformed, or the TLS files cannot be used.
    """

    def __init__(
        self,
        mounts: Sequence[tuple[str, ASGIApp]],
        *,
        host: str = "127.0.0.1",
        port: int = 8_080,
        certificate: Path | None = None,
        key: Path | None = None,
        limits: HttpLimits | None = None,
        setting: str = "--port",
    ) -> None:
        self.limits = limits or HttpLimits()
        app = Mounts(mounts)
        self._app = BodyLimits(app, self.limits.body_size, self.limits.body_timeout, app.worded)
        self._host = host
        self._port = port
        self._setting = setting
        if key is not None and certificate is None:
            raise ConfigurationError("a TLS key was given without a certificate")
        self._tls = tls.server_context(certificate, key) if certificate is not None else None
        self.url = ""
        """The URL of the host; empty before it is started."""
        self._listeners: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._opening: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen and serve, until :meth:`stop`.

        Raises:
            ConfigurationError: uvicorn is not installed.
            ListenError: the address cannot be listened on.
        """
        try:
            import uvicorn

            from dimesh.http.protocol import HostState
        except ImportError as error:
            raise ConfigurationError(
                f"serving HTTP needs uvicorn ({error}): pip install 'dimesh[http]'"
            ) from error
        self._listeners = await listener.bind(self._host, self._port, self._setting)
        address, bound = self._listeners[0].getsockname()[:2]
        address = f"[{address}]" if ":" in address else address
        self.url = f"{'https' if self._tls is not None else 'http'}://{address}:{bound}"
        self._connections = Connections(affordable_connections(self.limits.connections))
        self._state: HostState = HostState(self.limits, self._connections)
        self._config = uvicorn.Config(
            self._app,
            http=_protocol_class(),
            ws="none",
            interface="asgi3",
            lifespan="off",
            log_config=None,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=self.limits.keep_alive,  # type: ignore[arg-type]
            h11_max_incomplete_event_size=HEADER_SIZE,
        )
        self._config.load()
        self._accepting = [
            asyncio.create_task(
                listener.accept(one, self._connections, self._open), name="dimesh-http-accept"
            )
            for one in self._listeners
        ]

    def _open(self, client: socket.socket) -> None:
        """Hand an accepted socket to a protocol, after the TLS handshake if there is one."""
        protocol: Any = None
        connection = Connection()
        timeouts: dict[str, Any] = {}
        if self._tls is not None:
            timeouts["ssl_handshake_timeout"] = self.limits.header_timeout
            timeouts["ssl_shutdown_timeout"] = self.limits.write_timeout

        def create_protocol() -> Any:
            nonlocal protocol
            protocol = _protocol_class()(self._config, self._state, connection)
            return protocol

        async def hand_over() -> None:
            client.setblocking(False)
            await asyncio.get_running_loop().connect_accepted_socket(
                create_protocol, client, ssl=self._tls, **timeouts
            )

        def opened(task: asyncio.Task[None]) -> None:
            self._opening.discard(task)
            if connection.transport is not None:
                return
            # The client has gone, its handshake failed or took too long, or it gave way to another one.
            if protocol is None:
                client.close()  # otherwise the transport closes it
            self._connections.remove(connection)
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, OSError):
                log.error("a connection could not be opened", exc_info=error)

        self._connections.add(connection)
        connection.opening = asyncio.get_running_loop().create_task(hand_over(), name="dimesh-http-open")
        self._opening.add(connection.opening)
        connection.opening.add_done_callback(opened)

    async def stop(self) -> None:
        """Stop: accept nothing more, finish the requests being served within the limit, and close every connection."""
        await end_tasks(self._accepting)
        for one in self._listeners:
            one.close()
        if not self._accepting:
            return
        self._accepting = []
        for task in list(self._opening):
            task.cancel()
        for protocol in list(self._state.connections):
            protocol.close_when_done()  # type: ignore[union-attr]
        try:
            async with asyncio.timeout(self.limits.stop_timeout):
                await self._connections.drained()
        except TimeoutError:
            log.warning("%d connections were closed unfinished", len(self._connections))
            self._connections.abort_all()
            await finish(self._connections.drained(), "closing aborted connections", _ABORT_TIMEOUT)
        if self._state.tasks:
            # The clients have gone; what still runs had its time.
            _, running = await asyncio.wait(self._state.tasks, timeout=_ABORT_TIMEOUT)
            await end_tasks(running, _ABORT_TIMEOUT)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def _protocol_class() -> Any:
    from dimesh.http.protocol import LimitedProtocol

    return LimitedProtocol
