"""Waits that end: whatever closes a part of dimesh cancels tasks and awaits plugins within a bound.

A handler, a middleware or a client library can swallow a cancellation, or never return. Closing goes on after the bound, and
logs a warning with the name of what hangs and the place where it hangs. These bounds are on the time of the event loop and not
on an injected clock: they guard against code that hangs, and a test that stops its clock must not hang either.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Awaitable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, TypeVar

log = logging.getLogger("dimesh")

T = TypeVar("T")

END_LIMIT: Final = 5.0
"""The seconds that cancelled tasks get to end."""
CLOSE_LIMIT: Final = 10.0
"""The seconds that a plugin gets to close what it opened."""
_AGAIN: Final = 1.0
"""The seconds after which a task that still runs is cancelled again: enough to clean up, short enough for one that swallowed
its cancellation."""
_PLACES: Final = 3


async def end_tasks(
    tasks: Iterable[asyncio.Task[Any]], limit: float = END_LIMIT
) -> frozenset[asyncio.Task[Any]]:
    """Cancel tasks and wait until they have ended, for at most ``limit`` seconds.

    A task that swallows its cancellation is cancelled again every second. The tasks that run on after the limit are logged
    and returned; the calling task is left out. How a task ended is not reported.
    """
    current = asyncio.current_task()
    running = {task for task in tasks if task is not current and not task.done()}
    loop = asyncio.get_running_loop()
    end = loop.time() + limit
    while running:
        left = end - loop.time()
        if left <= 0:
            break
        for task in running:
            task.cancel()
        done, running = await asyncio.wait(running, timeout=min(_AGAIN, left))
        for task in done:
            if not task.cancelled():
                task.exception()  # retrieved, so that the event loop does not report it as forgotten
    for task in running:
        log.warning(
            "%s did not end within %g s of its cancellation and is left behind; it hangs in %s",
            task.get_name(),
            limit,
            place_of(task),
        )
    return frozenset(running)


async def finish(call: Awaitable[Any], what: str, limit: float = CLOSE_LIMIT) -> bool:
    """Await ``call`` for at most ``limit`` seconds; return whether it finished. One that did not is cancelled and logged.

    Args:
        call: a coroutine or future whose result does not matter.
        what: the name of the call for the log.
        limit: seconds.

    Raises:
        What ``call`` raises within the limit.
    """
    task = asyncio.ensure_future(_awaited(call))
    task.set_name(what)
    try:
        done, _ = await asyncio.wait((task,), timeout=limit)
    except BaseException:
        task.cancel()
        raise
    if done:
        task.result()
        return True
    log.warning("%s did not finish within %g s and is given up; it hangs in %s", what, limit, place_of(task))
    await end_tasks((task,), _AGAIN)
    return False


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a new event loop, as :func:`asyncio.run` does, which however waits for ever for a task that swallows its
    cancellation. Here such a task gets a second and is left behind.
    """
    runner = asyncio.Runner()
    try:
        return runner.run(work)
    finally:
        if runner.run(end_tasks_of_loop()):
            runner.get_loop().close()
        else:
            runner.close()


async def end_tasks_of_loop() -> frozenset[asyncio.Task[Any]]:
    """End every other task of the running event loop; see :func:`end_tasks`."""
    return await end_tasks(asyncio.all_tasks(), _AGAIN)


async def _awaited(call: Awaitable[Any]) -> None:
    await call


@contextmanager
def report_if_stuck(what: str, limit: float = CLOSE_LIMIT) -> Iterator[None]:
    """Log a warning if the body takes longer than ``limit`` seconds, with the place where it hangs. For plain code, which cannot
    be interrupted.
    """
    thread = threading.get_ident()

    def report() -> None:
        stack = traceback.extract_stack(sys._current_frames().get(thread))[-_PLACES:]
        places = [f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in reversed(stack)]
        log.warning(
            "%s did not finish within %g s, and cannot be given up; it hangs in %s",
            what,
            limit,
            ", called by ".join(places),
        )

    timer = threading.Timer(limit, report)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def place_of(task: asyncio.Task[Any]) -> str:
    """Return where a suspended task waits: function, file and line, the innermost first."""
    places: list[str] = []
    inner: Any = task.get_coro()
    while inner is not None:
        frame: FrameType | None = getattr(inner, "cr_frame", None) or getattr(inner, "gi_frame", None)
        if frame is not None:
            places.append(f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})")
        inner = getattr(inner, "cr_await", None) or getattr(inner, "gi_yieldfrom", None)
    return ", called by ".join(reversed(places[-_PLACES:])) or "unknown code"
