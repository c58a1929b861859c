"""The log of a command on standard error.

A command that ends by itself prints its result or its error, and only warnings of plugins and libraries beside it. A command that
runs until it is stopped logs from INFO on, or as ``[log]`` of the settings or the global options state.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from dimesh.cli.output import NOTES
from dimesh.logs.foreign import LIBRARIES, OWN, Levels
from dimesh.logs.stderr import install, logs_json

if TYPE_CHECKING:
    from dimesh.cli.context import State
    from dimesh.settings.model import MeshSettings

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def log_of_short_command(state: State) -> None:
    """Log errors and the warnings of plugins, or what the global options ask for. Reads no settings."""
    level = _asked(state)
    plugins = logging.ERROR if state.output.quiet else logging.WARNING
    levels = {OWN: level or logging.ERROR, f"{OWN}.plugins": level or plugins, NOTES: logging.INFO}
    _install(state, levels, level or plugins, state.log_format)
    state.output.notes_as_records = state.log_format == "json"


def log_to_stderr(state: State) -> None:
    """Log what an operator must see, until the process ends: see :class:`~dimesh.settings.model.LogSection`.

    Raises:
        ConfigurationError: a setting is invalid.
    """
    settings = state.loaded.settings
    level = _asked(state)
    if level is None:
        level = logging.ERROR if state.output.quiet else LEVELS[settings.log.level]
    levels = dict.fromkeys((OWN, *_own_packages(settings)), level)
    levels |= {name: LEVELS[wanted] for name, wanted in settings.log.loggers.items()}
    _install(state, levels, level, state.log_format or settings.log.format)
    state.output.notes_as_records = logs_json()
    logging.captureWarnings(True)
    threading.excepthook = _thread_failed
    sys.unraisablehook = _not_raised


def _asked(state: State) -> int | None:
    if state.log_level is not None:
        return LEVELS[state.log_level]
    return logging.DEBUG if state.debug else None


def _install(state: State, levels: dict[str, int], level: int, form: str | None) -> None:
    as_json = form == "json" if form else state.output.as_json
    install(Levels(levels, max(level, LIBRARIES)), as_json)


def _own_packages(settings: MeshSettings) -> set[str]:
    """Return the packages of the settings' handlers and interceptors: what they log is the user's, not a library's."""
    calls = [handler.call for handler in settings.handlers] + settings.mesh.interceptors
    return {call.partition(":")[0].partition(".")[0] for call in calls} - {""}


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None and not isinstance(failed.exc_value, SystemExit):
        name = failed.thread.name if failed.thread is not None else "a thread"
        logging.getLogger(OWN).error("%s ended by an exception", name, exc_info=failed.exc_value)


def _not_raised(failed: Any) -> None:
    what = failed.err_msg or "an exception could not be raised"
    logging.getLogger(OWN).error("%s in %s", what, type(failed.object).__name__, exc_info=failed.exc_value)
