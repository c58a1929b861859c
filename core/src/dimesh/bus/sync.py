"""A bus for code without an event loop: plain functions, threads, Django and Flask."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar, runtime_checkable

from dimesh.errors import BusClosedError, BusError
from dimesh.events.event import Event
from dimesh.spi.receipt import Receipt
from dimesh.tasks import end_tasks_of_loop

log = logging.getLogger("dimesh.bus")

T = TypeVar("T")

EXECUTOR_THREADS: Final = 4
"""The threads for blocking calls of the backend, such as those that open and close files."""
_LOOK: Final = 1.0
"""The interval, in seconds, at which a caller that waits checks whether the event loop still runs."""


class _Opened(Protocol):
    async def open(self) -> Any: ...

    async def close(self) -> Any: ...


class _Bus(_Opened, Protocol):
    """An :class:`EventBus`: that module imports this one."""

    async def publish(
        self,
        topic: str,
        event: Event,
        *,
        key: str | None = None,
        delay: float | timedelta | None = None,
        deliver_at: datetime | None = None,
        timeout: float | None = None,
    ) -> Receipt: ...

    async def publish_many(
        self,
        topic: str,
        events: Sequence[Event],
        *,
        key: str | None = None,
        keys: Sequence[str] | None = None,
        timeout: float | None = None,
        state: Mapping[str, bytes] | None = None,
    ) -> list[Receipt]: ...

    async def request(
        self, topic: str, event: Event, *, timeout: float = 30.0, key: str | None = None
    ) -> Event: ...


@runtime_checkable
class _HasBus(_Opened, Protocol):
    """A :class:`Mesh`."""

    @property
    def bus(self) -> _Bus: ...


class SyncBus:
    """Publishes and requests from plain functions, in any number of threads.

    Alone, it runs the bus in an event loop of its own, in a thread that starts at the first call; it closes the bus in
    :meth:`close`, at the end of a ``with`` block, or when the program ends. With ``loop``, it uses a bus that is open in that
    loop already, and leaves it open.

    Args:
        source: an :class:`EventBus` that nobody else uses, or a :class:`Mesh` whose bus is wanted.
        loop: the running event loop that the bus is open in; see also :attr:`EventBus.sync`.
    """

    def __init__(self, source: _Bus | _HasBus, *, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._source = source
        self._bus: _Bus = source.bus if isinstance(source, _HasBus) else source
        self._loop = loop
        self._pid = os.getpid() if loop is not None else None
        self._lock = threading.Lock()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event
        self._ended: concurrent.futures.Future[None]

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    # -- publishing ------------------------------------------------------------------------------

    def publish(
        self,
        topic: str,
        event: Event,
        *,
        key: str | None = None,
        delay: float | timedelta | None = None,
        deliver_at: datetime | None = None,
        timeout: float | None = None,
    ) -> Receipt:
        """Publish one event; return when the backend has it. Arguments and errors are those of :meth:`EventBus.publish`.

        Raises:
            BusError: called where an event loop runs, or in a process that was forked after the bus was opened.
            BusClosedError: the bus, or the event loop that it lives in, is closed.
        """
        return self._call(
            lambda: self._bus.publish(
                topic, event, key=key, delay=delay, deliver_at=deliver_at, timeout=timeout
            )
        )

    def publish_many(
        self,
        topic: str,
        events: Sequence[Event],
        *,
        key: str | None = None,
        keys: Sequence[str] | None = None,
        timeout: float | None = None,
        state: Mapping[str, bytes] | None = None,
    ) -> list[Receipt]:
        """Publish events in order; see :meth:`EventBus.publish_many`. Raises what :meth:`publish` raises."""
        return self._call(
            lambda: self._bus.publish_many(topic, events, key=key, keys=keys, timeout=timeout, state=state)
        )

    def request(self, topic: str, event: Event, *, timeout: float = 30.0, key: str | None = None) -> Event:
        """Publish a request and wait for the reply; see :meth:`EventBus.request`. Raises what :meth:`publish` raises."""
        return self._call(lambda: self._bus.request(topic, event, timeout=timeout, key=key))

    def _call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self._check_caller()
        with self._lock:  # after the lock is free, a closing loop serves what was submitted before
            future = self._submit(make)
        try:
            while True:
                try:
                    return future.result(_LOOK)
                except TimeoutError:
                    if future.done():
                        raise
                    if self._loop is None or not self._loop.is_running():
                        raise BusClosedError("the event loop of this bus has ended") from None
        except concurrent.futures.CancelledError:
            raise BusClosedError("the bus was closed during the call; its outcome is unknown") from None
        except BaseException:
            future.cancel()  # as when the caller is interrupted by a signal
            raise

    def _check_caller(self) -> None:
        if self._pid is not None and self._pid != os.getpid():
            raise BusError(
                f"this SyncBus was opened in process {self._pid}, before this process was forked from it, and its thread and "
                "connections did not come along: first use it after the fork, as in a gunicorn worker without preload_app, or "
                "make a new one here"
            )
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        raise BusError(
            "a SyncBus blocks its caller, and an event loop runs here: await the EventBus instead, or call this with "
            "asyncio.to_thread"
        )

    def _submit(self, make: Callable[[], Coroutine[Any, Any, T]]) -> concurrent.futures.Future[T]:
        if self._closed:
            raise BusClosedError("this SyncBus is closed; make a new one")
        if self._loop is None:
            self._start()
        loop = self._loop
        if loop is None or not loop.is_running():
            raise BusClosedError("the event loop of this bus has ended")
        return asyncio.run_coroutine_threadsafe(make(), loop)

    # -- life ------------------------------------------------------------------------------------

    def open(self) -> Self:
        """Start the thread and connect now instead of at the first call.

        Raises:
            What opening the bus or the mesh raises; then the next call tries again.
        """
        self._check_caller()
        with self._lock:
            if self._closed:
                raise BusClosedError("this SyncBus is closed; make a new one")
            if self._loop is None:
                self._start()
        return self

    def _start(self) -> None:
        started: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
        self._pid = os.getpid()
        self._ended = concurrent.futures.Future()
        # A daemon: the interpreter joins other threads before it runs what was registered to close the bus.
        self._thread = threading.Thread(
            target=self._run, args=(started, self._ended), name="dimesh-sync-bus", daemon=True
        )
        self._thread.start()
        try:
            self._loop = started.result()
        except BaseException:
            self._thread, self._pid = None, None
            raise
        _open.add(self)
        _close_at_exit()

    def _run(
        self,
        started: concurrent.futures.Future[asyncio.AbstractEventLoop],
        ended: concurrent.futures.Future[None],
    ) -> None:
        # Not asyncio.run: it starts a thread to end the executor, which is impossible at the end of a program.
        loop = asyncio.new_event_loop()
        executor = _started_executor()
        loop.set_default_executor(executor)
        try:
            try:
                loop.run_until_complete(self._serve(started))
            finally:
                loop.run_until_complete(end_tasks_of_loop())
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.close()
                executor.shutdown(wait=False)
        except BaseException as error:
            if started.done():
                ended.set_exception(error)
            else:
                started.set_exception(error)
        else:
            ended.set_result(None)

    async def _serve(self, started: concurrent.futures.Future[asyncio.AbstractEventLoop]) -> None:
        self._stop = asyncio.Event()
        await self._source.open()
        try:
            started.set_result(asyncio.get_running_loop())
            await self._stop.wait()
        finally:
            await self._source.close()

    def close(self) -> None:
        """Close the bus and end its thread; a bus in somebody else's event loop is left open. May be called twice.

        Raises:
            BusError: called where an event loop runs, or in a process that was forked after the bus was opened.
            StorageError: closing the bus failed.
        """
        self._check_caller()
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
            loop = self._loop
        if thread is None or loop is None:
            return
        _open.discard(self)
        if not self._ended.done():
            loop.call_soon_threadsafe(self._stop.set)
        thread.join()
        self._ended.result()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _started_executor() -> concurrent.futures.ThreadPoolExecutor:
    """Return an executor whose threads all run: at the end of a program, when the bus may be closed, none can be started."""
    executor = concurrent.futures.ThreadPoolExecutor(EXECUTOR_THREADS, "dimesh-sync-bus")
    together = threading.Barrier(
        EXECUTOR_THREADS
    )  # a thread that is free already would be given the next call
    for _ in range(EXECUTOR_THREADS):
        executor.submit(together.wait)
    return executor


_open: Final[set[SyncBus]] = set()


@cache
def _close_at_exit() -> None:
    """Have everything closed that is open at the end of the program: a web server offers its applications no other moment.

    Functions of ``atexit`` run when threads of executors are gone already, which closing may need; ``concurrent.futures`` uses
    the same, undocumented function, and what was registered last runs first.
    """
    getattr(threading, "_register_atexit", atexit.register)(_close_all)


def _close_all() -> None:
    for bus in tuple(_open):
        if bus._pid == os.getpid():  # a forked process has nothing to close
            try:
                bus.close()
            except Exception as error:
                log.warning("closing a SyncBus at the end of the program failed", exc_info=error)
