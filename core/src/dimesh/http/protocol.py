"""uvicorn's HTTP protocol with deadlines for clients that send no request, or do not read their response.

It uses the attributes ``cycle``, ``flow`` and ``transport`` of uvicorn's h11 protocol, which are not documented; the tests of
the host fail if they change.
"""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from typing import Final, cast

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from dimesh.http.connections import Connection, Connections
from dimesh.http.limits import HttpLimits
from dimesh.http.log import log

LEAST_READ: Final = 16 * 1024
"""The bytes of a response that a client must read within the write time-out to be given another one."""


class HostState(ServerState):
    """The state that the connections of one host share.

    Args:
        limits: the limits of the host.
        connections: the open connections.
    """

    def __init__(self, limits: HttpLimits, connections: Connections) -> None:
        super().__init__()
        self.limits = limits
        self.open_connections = connections
        self._second = 0

    def refresh_date(self) -> None:
        """Bring the ``Date`` header of responses up to date."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self.default_headers = [(b"date", formatdate(second, usegmt=True).encode())]


class LimitedProtocol(H11Protocol):
    """One HTTP connection with limits.

    Args:
        config: of uvicorn; holds the application.
        state: shared with the other connections.
        connection: the entry of this connection.
    """

    def __init__(self, config: Config, state: HostState, connection: Connection) -> None:
        super().__init__(config, state, {})
        self.logger = log
        self.access_log = False
        self._state = state
        self._connection = connection
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    @property
    def serving(self) -> bool:
        """Whether a request has begun whose response is not complete."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is not None and not cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline of the first request."""
        super().connection_made(transport)
        # Any byte that the client does not read starts the write deadline, not only a full buffer. (With 0 instead of 1 the
        # TLS transport would pause for ever.)
        transport.set_write_buffer_limits(high=1, low=0)
        self._connection.transport = transport
        self._update()
        self._start_header_timer()

    def data_received(self, data: bytes) -> None:
        """Process data, and keep the deadline of an unfinished header."""
        self._state.refresh_date()
        super().data_received(data)
        if self.serving:
            self._stop_header_timer()
        elif self._header_timer is None and not self.transport.is_closing():
            self._start_header_timer()
        self._update()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._update()

    def pause_writing(self) -> None:
        """Start the deadline for reading the response."""
        super().pause_writing()
        self._start_write_timer(self.transport.get_write_buffer_size())
        self._update()

    def resume_writing(self) -> None:
        """Cancel the deadline for reading the response."""
        super().resume_writing()
        self._stop_write_timer()
        self._update()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release what the connection holds."""
        self._stop_header_timer()
        self._stop_write_timer()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._state.open_connections.remove(self._connection)

    def close_when_done(self) -> None:
        """Close now, or after the response that is being sent."""
        if self.serving:
            self.cycle.keep_alive = False
        elif cast("RequestResponseCycle | None", self.cycle) is None:
            self.transport.abort()  # closing TLS would wait for the client, which has sent nothing so far
        else:
            self.transport.close()

    def _update(self) -> None:
        served = self.serving and not self.cycle.more_body and not self.flow.write_paused
        self._state.open_connections.set_waiting(self._connection, not served)

    def _start_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(self._state.limits.header_timeout, self.transport.abort)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _start_write_timer(self, unread: int) -> None:
        self._write_timer = self.loop.call_later(self._state.limits.write_timeout, self._check_reader, unread)

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _check_reader(self, unread: int) -> None:
        now = self.transport.get_write_buffer_size()
        if unread - now < LEAST_READ:
            self.transport.abort()
        else:
            self._start_write_timer(now)
