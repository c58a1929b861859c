"""Stopping a process by SIGINT or SIGTERM: the first signal stops it in order, the second at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any, Final

INTERRUPTED: Final = 130
"""The exit code of a process that was interrupted."""
_asked = False
LAST_WORDS: Final = "ended at once by a second signal while stopping"


def stop_event(last_words: str = f"error: {LAST_WORDS}") -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set from now on. A second signal ends the process at once.

    Call it on the running event loop, in the main thread.

    Args:
        last_words: the line that a second signal writes to standard error.
    """
    stop = asyncio.Event()
    on_signal(stop.set, last_words)
    return stop


def on_signal(
    stop: Callable[[], object],
    last_words: str,
    signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
) -> None:
    """Have the event loop call ``stop`` at the first of these signals, and end the process at the second.

    These are handlers of Python and not of the event loop: the second signal must end the process also while something blocks the
    loop, or when the loop has ended and a thread has not.
    """
    loop = asyncio.get_running_loop()

    def handle(number: int, frame: Any) -> None:
        global _asked
        if _asked:
            end_at_once(last_words)
        _asked = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is about to end
            loop.call_soon_threadsafe(stop)

    for number in signals:
        signal.signal(number, handle)


def asked_to_stop() -> bool:
    """Return whether the process has received one of the signals."""
    return _asked


def end_at_once(last_words: str) -> None:
    """End the process without any clean-up, which a crash-safe mesh does not need."""
    with contextlib.suppress(OSError):
        os.write(2, f"{last_words}\n".encode("ascii", "backslashreplace"))
    os._exit(INTERRUPTED)
