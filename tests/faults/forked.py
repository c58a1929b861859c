"""Processes of the fault tests: forked from a server that has imported everything, so that each starts in milliseconds."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Callable
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "fault_worker",
        "mending",
        "registering",
        "capture.worker",
        "dimesh_contracts.history",
        "dimesh.backends.cdc.outbox",
        "dimesh_netsuite.source",
        "dimesh_stripe.source",
        "dimesh_salesforce.source",
        "dimesh_zendesk.source",
    ]
)


class Forked:
    """A process that runs a function, and whose end can be awaited.

    Args:
        target: a function of a module that the process can import.
        arguments: its arguments.
    """

    def __init__(self, target: Callable[..., object], *arguments: Any) -> None:
        self._process = CONTEXT.Process(target=target, args=arguments)
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """The exit code, or the negative number of the signal that ended the process; None while the process runs."""
        return self._process.exitcode

    async def wait(self) -> int | None:
        """Wait for the end of the process; return its exit code."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._process.sentinel, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._process.sentinel)
        self._process.join()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End the process by SIGKILL."""
        self._process.kill()
