"""Which errors of handlers another attempt may cure.

The class of an error decides, never its text. The errors of dimesh state it themselves. Of others, those of the network and of
the system are transient; errors that say that the code or the data is wrong are not. The exceptions of libraries often derive
from ``Exception`` alone (``httpx.ConnectError``, ``redis.ConnectionError``, ``psycopg.OperationalError``), so the names of
their classes count as well.
"""

from __future__ import annotations

import re
from typing import Final

from dimesh.errors import DimeshError, is_permanent

MISTAKES: Final[tuple[type[BaseException], ...]] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    TypeError,
    ValueError,
    # Of the errors of the system, those that are about a file.
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
"""Errors of the code or the data. A few attempts are made, since a mistake may depend on timing."""

_NAMES: Final = re.compile(
    r"connect|timeout|timedout|unavailable|network|transport|throttl|toomanyrequests|ratelimit|deadlineexceeded|overload"
    r"|operationalerror|interfaceerror|serviceerror|internalservererror|slowdown",
    re.IGNORECASE,
)
_DEPTH: Final = 8


def is_transient(error: BaseException) -> bool:
    """Return whether an error lasts until something outside the handler recovers, and then goes away by itself.

    A status of an HTTP response decides before the class does: 408, 425, 429 and 500 upwards are transient. An error that
    was raised ``from`` a transient one is transient, unless it has a status of its own.
    """
    current: BaseException | None = error
    for _ in range(_DEPTH):
        if current is None:
            return False
        status = _status(current)
        if status is not None:
            return status in (408, 425, 429) or status >= 500
        if isinstance(current, DimeshError):
            return not is_permanent(current)
        if _is_transient_class(type(current)):
            return True
        current = current.__cause__
    return False


def _is_transient_class(kind: type[BaseException]) -> bool:
    if issubclass(kind, MISTAKES):
        return False
    return issubclass(kind, OSError) or any(
        _NAMES.search(base.__name__) for base in kind.__mro__ if base.__module__ != "builtins"
    )


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an exception carries: the way of requests and httpx, then that of aiohttp and most clients."""
    for owner, name in (
        ("response", "status_code"),
        ("", "status_code"),
        ("", "status"),
        ("", "http_status"),
    ):
        try:
            holder = getattr(error, owner, None) if owner else error
            status = getattr(holder, name, None)
        except Exception:  # noqa: S112 - a property of a stranger's class may raise
            continue
        if type(status) is int and 400 <= status < 600:
            return status
    return None
