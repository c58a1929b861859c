"""Listening: binding the sockets, and accepting connections within the limits.

The accept loop is our own. The event loop's accepts as many connections as there are, before any limit can apply, and logs
a traceback for each one that finds no file descriptor left.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

from dimesh.errors import ListenError
from dimesh.http.connections import Connections
from dimesh.http.log import log

BACKLOG: Final = 2_048
ACCEPT_RETRY: Final = 0.1
"""Seconds to wait after an accept that failed."""
_AT_A_TIME: Final = 32
"""Connections accepted before the event loop turns to the others."""


async def bind(host: str, port: int, setting: str = "--port") -> list[socket.socket]:
    """Return listening sockets for every address of a host.

    Args:
        host: a name or address; empty: every interface.
        port: the port; 0 chooses a free one.
        setting: the name of the setting of the port, for messages.

    Raises:
        ListenError: the name is unknown, or the port is in use or not permitted.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"cannot listen on {host!r}: {error}") from error
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        if port == 0 and sockets:  # the same free port for every address
            address = (address[0], sockets[0].getsockname()[1], *address[2:])
        try:
            sockets.append(_listen(family, kind, protocol, address))
        except OSError as error:
            failure = error
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                break  # an address that the machine lacks is left out; everything else is an error
    else:
        if sockets:
            return sockets
    for opened in sockets:
        opened.close()
    reason = failure.strerror if failure is not None else "no address was found"
    hint = f"; choose another {setting}" if failure is not None and failure.errno == errno.EADDRINUSE else ""
    raise ListenError(f"cannot listen on {host or '*'}:{port}: {reason}{hint}") from failure


def _listen(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        if hasattr(socket, "SO_REUSEPORT"):  # not on Windows, where SO_REUSEADDR would share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setblocking(False)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


async def accept(
    listener: socket.socket, connections: Connections, opened: Callable[[socket.socket], None]
) -> None:
    """Accept connections until cancelled, each when there is room for it.

    Args:
        listener: a listening socket.
        connections: the open connections, which decide about the room.
        opened: is called with each accepted socket.
    """
    loop = asyncio.get_running_loop()
    accepted = 0
    while True:
        try:
            client, _ = await loop.sock_accept(listener)
        except ConnectionAbortedError:
            continue
        except OSError as error:
            log.warning("a connection could not be accepted: %s", error.strerror or error)
            connections.evict()
            await asyncio.sleep(ACCEPT_RETRY)
            continue
        try:
            await connections.room()
        except asyncio.CancelledError:
            client.close()
            raise
        opened(client)
        accepted += 1
        if accepted % _AT_A_TIME == 0:
            await asyncio.sleep(0)
