"""Threads for handlers that are plain functions.

Not ``concurrent.futures``: its threads keep the process from ending while one of them hangs, and a handler may
hang. These are daemons, and a thread whose call was given up is written off.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any, Final

from dimesh.errors import BusError

MAX_ABANDONED: Final = 64


class ThreadPool:
    """Threads that run one call each at a time. There are as many as there were calls at once: the callers (the
    workers of a subscription) are the bound.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._idle: list[_Thread] = []
        self._closed = False
        self.abandoned = 0
        """Threads whose call was given up and still runs, as far as anybody knows."""

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """What ``function(*args)`` returns, called in a thread with the caller's context variables.

        A cancelled caller leaves the call running, since a thread cannot be stopped; its thread is written off.

        Raises:
            BusError: 64 calls already hang.
        """
        if self.abandoned >= MAX_ABANDONED:
            raise BusError(
                f"{self.abandoned} calls of {self._name} never came back; no more threads are given to it. "
                "Restart the process, and make the handler time out by itself"
            )
        thread = self._idle.pop() if self._idle else _Thread(f"{self._name}-thread")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        thread.jobs.put((contextvars.copy_context().run, (function, *args), future, loop))
        try:
            result = await future
        except BaseException:
            if future.cancelled():
                self.abandoned += 1
                thread.jobs.put(None)
            else:
                self._give_back(thread)
            raise
        self._give_back(thread)
        return result

    def close(self) -> None:
        """End the idle threads; a busy one ends after its call."""
        self._closed = True
        while self._idle:
            self._idle.pop().jobs.put(None)

    def _give_back(self, thread: _Thread) -> None:
        if self._closed:
            thread.jobs.put(None)
        else:
            self._idle.append(thread)


_Job = tuple[Callable[..., Any], tuple[Any, ...], "asyncio.Future[Any]", asyncio.AbstractEventLoop]


class _Thread:
    __slots__ = ("jobs",)

    def __init__(self, name: str) -> None:
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            function, args, future, loop = job
            result: Any = None
            error: BaseException | None = None
            try:
                result = function(*args)
            except BaseException as caught:
                error = caught
            try:
                loop.call_soon_threadsafe(_settle, future, result, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            del job, function, args, future, loop, result, error


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, (StopIteration, asyncio.CancelledError)):
        # A future cannot carry the one, and the other would look like a cancellation of ours.
        future.set_exception(RuntimeError(f"the handler raised {type(error).__name__}"))
    else:
        future.set_exception(error)
