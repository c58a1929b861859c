"""Keeps the output of plugins apart from the results on standard output."""

from __future__ import annotations

import sys
import threading
from typing import Final, TextIO


class _StdoutToStderr:
    """While at least one thread is inside, ``print`` writes to standard error.

    ``contextlib.redirect_stdout`` restores what it found; when two threads overlap, that can be the other thread's
    redirection, which would then stay for good. Therefore the entries are counted.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._stdout: TextIO | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._stdout, sys.stdout = sys.stdout, sys.stderr
            self._inside += 1

    def __exit__(self, *failure: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                assert self._stdout is not None
                sys.stdout, self._stdout = self._stdout, None


stdout_to_stderr: Final = _StdoutToStderr()
"""A context manager around every import of a plugin and every call of a hook."""
