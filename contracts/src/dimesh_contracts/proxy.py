"""A TCP proxy that misbehaves on demand. Put it between a plugin and its server, and test how the plugin reacts::

    async with FaultProxy(target=9092) as proxy:
        backend = MyBackend(f"127.0.0.1:{proxy.port}")
        ...
        proxy.cut()       # nothing passes, and nobody gets an error
        proxy.heal()
        proxy.reset()     # all connections break
        proxy.latency = 0.2
        proxy.bandwidth = 50_000

A server that redirects its clients, as Kafka's brokers do, must be configured to advertise the proxy's address.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Self

_CHUNK = 65_536


class FaultProxy:
    """Passes bytes between clients of ``port`` and the server at ``target``, in the running event loop.

    Args:
        target: the port of the server.
        port: the port to listen on; 0: any free port.
        host: the host of both.
    """

    def __init__(self, target: int, port: int = 0, host: str = "127.0.0.1") -> None:
        self.target = target
        self.port = port
        self.host = host
        self.latency = 0.0
        """The seconds by which each piece of data is late, in each direction."""
        self.bandwidth: float | None = None
        """The bytes per second of each connection and direction; None: no limit."""
        self.connections = 0
        """The number of connections accepted so far."""
        self._passing = asyncio.Event()
        self._passing.set()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def accept(self) -> None:
        """Start to listen, or listen again."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, self.host, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Refuse new connections; open ones stay."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def cut(self) -> None:
        """Stop everything without an error: what was sent waits for :meth:`heal`, or for ever."""
        self._passing.clear()

    def heal(self) -> None:
        """Let everything pass again."""
        self._passing.set()

    def reset(self) -> None:
        """Break all connections at once, as when a router forgets them (RST)."""
        for writer in tuple(self._open):
            sock = writer.get_extra_info("socket")
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def close(self) -> None:
        """Close all connections and stop to listen."""
        self.refuse()
        self.reset()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        try:
            await self._passing.wait()
            server_reader, server_writer = await asyncio.open_connection(self.host, self.target)
        except OSError:
            self._open.discard(writer)
            writer.transport.abort()
            return
        self._open.add(server_writer)
        for source, sink in ((reader, server_writer), (server_reader, writer)):
            task = asyncio.create_task(self._pass(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(_CHUNK):
                if self.latency:
                    await asyncio.sleep(self.latency)
                if self.bandwidth:
                    await asyncio.sleep(len(data) / self.bandwidth)
                await self._passing.wait()
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            self._open.discard(sink)
            sink.close()
