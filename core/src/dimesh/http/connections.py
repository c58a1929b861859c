"""The open connections of a host: how many there may be, and which one gives way to a new one."""

from __future__ import annotations

import asyncio


class Connection:
    """One connection, from when it is accepted until it is closed."""

    def __init__(self) -> None:
        self.opening: asyncio.Task[None] | None = None
        """The task that performs the TLS handshake, if any, and hands the connection to its protocol."""
        self.transport: asyncio.Transport | None = None
        """The transport; None until the protocol has it."""

    def abort(self) -> None:
        """Close at once, without sending what is buffered."""
        if self.transport is not None:
            self.transport.abort()
        elif self.opening is not None:
            self.opening.cancel()


class Connections:
    """The open connections, at most ``limit``.

    A connection is either waiting for its client (to send a whole request, or to read the response) or being served. When
    the limit is reached, the one that has waited longest is closed: a flood of silent clients loses its own connections,
    and a client that sends its request soon after connecting is served.

    Args:
        limit: the most open connections.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.evicted = 0
        """The number of connections closed to make room."""
        self._open: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}  # a dict keeps the order: the longest wait comes first
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> None:
        """Add a connection that was just accepted."""
        self._open.add(connection)
        self._waiting[connection] = None

    def remove(self, connection: Connection) -> None:
        """Remove a connection that is closed."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)
        self._changed.set()

    def set_waiting(self, connection: Connection, waiting: bool) -> None:
        """Record whether a connection waits for its client. A wait that goes on keeps its age."""
        if not waiting:
            self._waiting.pop(connection, None)
        elif connection in self._open and connection not in self._waiting:
            self._waiting[connection] = None
            self._changed.set()

    def evict(self) -> bool:
        """Close the connection that has waited longest; return False when all are being served."""
        connection = next(iter(self._waiting), None)
        if connection is None:
            return False
        del self._waiting[connection]
        self.evicted += 1
        connection.abort()
        return True

    async def room(self) -> None:
        """Return when there is room for one more connection."""
        while len(self._open) >= self.limit:
            self._changed.clear()
            self.evict()
            await self._changed.wait()

    async def drained(self) -> None:
        """Return when no connection is open."""
        while self._open:
            self._changed.clear()
            await self._changed.wait()

    def abort_all(self) -> None:
        """Close every connection at once."""
        for connection in list(self._open):
            connection.abort()
