"""Notifications for systemd: the mesh is ready, it is stopping, its event loop is alive.

The protocol is that of sd_notify(3): lines in a datagram to the socket that ``NOTIFY_SOCKET`` names. Other service managers and
container engines speak it, too. Without that variable nothing is sent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Final, Self

log = logging.getLogger("dimesh.systemd")

_SHARE: Final = 0.4
"""The pause between two signs of life, as a part of ``WatchdogSec``; systemd recommends half of it."""


class ServiceManager(AbstractAsyncContextManager["ServiceManager"]):
    """The connection to the service manager. As a context manager, it sends the signs of life that a watchdog expects.

    Args:
        environment: the environment of the process; by default the real one.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address  # an abstract socket
        self._watchdog = 0.0
        limit = environment.get("WATCHDOG_USEC", "")
        if limit.isdecimal() and environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            self._watchdog = int(limit) / 1e6
        self._alive: asyncio.Task[None] | None = None

    def ready(self) -> None:
        """Report that the mesh runs."""
        self._send("READY=1")

    def stopping(self) -> None:
        """Report that the mesh finishes what is being handled."""
        self._send("STOPPING=1")

    async def __aenter__(self) -> Self:
        if self._address and self._watchdog:
            self._alive = asyncio.create_task(self._send_signs(), name="dimesh-watchdog")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._alive is not None:
            self._alive.cancel()

    async def _send_signs(self) -> None:
        """From the event loop, so that a loop that is blocked for too long is restarted."""
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._watchdog * _SHARE)

    def _send(self, state: str) -> None:
        if not self._address or not hasattr(socket, "AF_UNIX"):
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.setblocking(False)
                channel.connect(self._address)
                channel.send(state.encode())
        except OSError as error:
            log.warning("the service manager did not get %s: %s", state, error.strerror)
