"""The handler that writes the log of a process to standard error."""

from __future__ import annotations

import logging
import sys
from typing import Final

from dimesh.logs.foreign import Levels
from dimesh.logs.lines import HumanLines, JsonLines


class StderrHandler(logging.Handler):
    """Writes records to what ``sys.stderr`` is at the time. Where it is closed or full, there is nobody to report that to."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):
            pass


_handler: Final = StderrHandler()


def install(levels: Levels, as_json: bool) -> None:
    """Log to standard error from now on. The levels and the format of an earlier call are replaced."""
    levels.apply()
    _handler.filters = [levels]
    _handler.setFormatter(JsonLines() if as_json else HumanLines())
    if _handler not in logging.getLogger().handlers:
        logging.getLogger().addHandler(_handler)


def reset() -> None:
    """Log nowhere, as before the first call of :func:`install`: a process that runs several commands, such as a test, begins each
    of them anew.
    """
    logging.getLogger().removeHandler(_handler)
    _handler.setFormatter(None)


def logs_json() -> bool:
    """Return whether the lines of the log are JSON."""
    return isinstance(_handler.formatter, JsonLines)
