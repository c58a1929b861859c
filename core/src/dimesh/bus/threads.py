"""Threads for handlers that are plain functions.

``concurrent.futures`` is not used: its threads keep the process from ending while one of them hangs, and a handler may hang.
These threads are daemons, and a thread whose call was given up is replaced until the call returns.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from dimesh.errors import BusError

MAX_ABANDONED: Final = 64


class ThreadPool:
    """A pool of threads that run one call each at a time. It grows to the largest number of calls at once, which is bounded
    by its callers, the workers of a subscription.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._idle: list[_Thread] = []
        self._closed = False
        self.abandoned = 0
        """The number of threads whose call was given up and still runs."""

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call ``function(*args)`` in a thread, with the context variables of the caller, and return its result.

        A cancelled caller leaves the call running, since a thread cannot be stopped. The thread is abandoned until the call
        returns, and then used again.

        Raises:
            BusError: 64 calls that were given up still run.
        """
        if self.abandoned >= MAX_ABANDONED:
            raise BusError(
                f"{self.abandoned} calls of {self._name} were given up and still run, so it gets no more threads until one of "
                "them returns. Make the handler time out by itself"
            )
        thread = self._idle.pop() if self._idle else _Thread(f"{self._name}-thread")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        thread.jobs.put(
            (contextvars.copy_context().run, (function, *args), partial(self._returned, thread, future), loop)
        )
        try:
            return await future
        except BaseException:
            if future.cancelled():
                self.abandoned += 1  # until _returned is called
            raise

    def close(self) -> None:
        """End the idle threads; a busy thread ends after its call."""
        self._closed = True
        while self._idle:
            self._idle.pop().jobs.put(None)

    def _returned(
        self, thread: _Thread, future: asyncio.Future[Any], result: Any, error: BaseException | None
    ) -> None:
        """Pass the outcome of a call on, and take its thread back. Called in the event loop."""
        if self._closed:
            thread.jobs.put(None)
        else:
            self._idle.append(thread)
        if future.cancelled():
            self.abandoned -= 1
        elif error is None:
            future.set_result(result)
        elif isinstance(error, (StopIteration, GeneratorExit, asyncio.CancelledError)):
            # A future cannot carry StopIteration, CancelledError would look like a cancellation by the engine, and GeneratorExit
            # would close the coroutine of the worker.
            future.set_exception(RuntimeError(f"the handler raised {type(error).__name__}"))
        else:
            future.set_exception(error)


_Job = tuple[
    Callable[..., Any],
    tuple[Any, ...],
    Callable[[Any, BaseException | None], None],
    asyncio.AbstractEventLoop,
]
"""A function, its arguments, the callback for its outcome, and the event loop to call that in."""


class _Thread:
    __slots__ = ("jobs",)

    def __init__(self, name: str) -> None:
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            function, args, returned, loop = job
            result: Any = None
            error: BaseException | None = None
            try:
                result = function(*args)
            except BaseException as caught:
                error = caught
            try:
                loop.call_soon_threadsafe(returned, result, error)
            except RuntimeError:  # the loop is closed, so there is no caller any more
                return
            del job, function, args, returned, loop, result, error
