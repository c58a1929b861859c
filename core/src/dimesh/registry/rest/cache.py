"""Answers that do not change: the schemas of ids."""

from __future__ import annotations

import time
from typing import Final, TypeAlias

Key: TypeAlias = tuple[bytes, bytes]
"""The path and the query of a request."""

KEPT_FOR: Final = 10.0
"""Seconds. The schema of an id never changes, but another process may erase it for good."""
MAX_KEPT: Final = 16 * 1024 * 1024
"""The greatest number of bytes of all answers."""


class AnswerCache:
    """Answers by request, until something is written or they are too old."""

    def __init__(self) -> None:
        self._answers: dict[Key, tuple[float, bytes]] = {}
        self._size = 0
        self.writes = 0
        """The number of writes. An answer that was made across a write is not kept."""

    def get(self, key: Key) -> bytes | None:
        """Return an answer; None: there is none that is fresh."""
        found = self._answers.get(key)
        return found[1] if found is not None and found[0] > time.monotonic() else None

    def put(self, key: Key, answer: bytes, writes: int) -> None:
        """Keep an answer.

        Args:
            key: the request.
            answer: the body.
            writes: the number of writes when the answer was begun.
        """
        if writes != self.writes:
            return
        size = len(answer) + len(key[0]) + len(key[1])
        if self._size + size > MAX_KEPT:
            self._clear()
        if key in self._answers:  # it became too old
            self._size -= size
        self._answers[key] = (time.monotonic() + KEPT_FOR, answer)
        self._size += size

    def written(self) -> None:
        """Forget everything: something was written."""
        self.writes += 1
        self._clear()

    def _clear(self) -> None:
        self._answers.clear()
        self._size = 0
