"""A log that nobody can fill: what repeats is logged a few times a minute and counted beyond that."""

from __future__ import annotations

import logging
import time
from typing import Final

MOST: Final = 5
"""How often one message is logged in a window."""
WINDOW: Final = 60.0
"""Seconds of a window."""
_MOST_MESSAGES: Final = 1_000


class Repeats:
    """Counts how often something happens, and admits :data:`MOST` in each window."""

    __slots__ = ("_began", "_count")

    def __init__(self) -> None:
        self._began = float("-inf")
        self._count = 0

    def admit(self, now: float) -> int | None:
        """Return None if this one is too many; otherwise the number of those that were not admitted before it."""
        suppressed = 0
        if now - self._began >= WINDOW:
            suppressed = max(self._count - MOST, 0)
            self._began, self._count = now, 0
        self._count += 1
        return suppressed if self._count <= MOST else None


def more(suppressed: int) -> str:
    """Return the end of a message before which others were not logged."""
    return f" ({suppressed:,} more of these were not logged)" if suppressed else ""


class RepeatFilter(logging.Filter):
    """Suppress a warning that is logged too often. The next one to pass says how many were suppressed."""

    def __init__(self) -> None:
        super().__init__()
        self._repeats: dict[str, Repeats] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log this record. Records with the same template count as the same message."""
        if record.levelno < logging.WARNING:
            return True
        message = str(record.msg)
        repeats = self._repeats.get(message)
        if repeats is None:
            if len(self._repeats) >= _MOST_MESSAGES:
                self._repeats.clear()
            repeats = self._repeats[message] = Repeats()
        suppressed = repeats.admit(time.monotonic())
        if suppressed:
            record.msg = message + more(suppressed)
        return suppressed is not None
