"""The limits of the HTTP host, and how many connections the limit of open files leaves room for."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, fields
from typing import Final

from dimesh.errors import ConfigurationError

log = logging.getLogger("dimesh.http")

HEADER_SIZE: Final = 32 * 1024
"""The most bytes of one request's header."""
RESERVED_FILES: Final = 64
"""File descriptors that connections never use: for the bus, its files, and listening sockets."""
FEWEST_CONNECTIONS: Final = 8


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits of an HTTP host. Times are in seconds.

    Raises:
        ConfigurationError: a limit is not positive.
    """

    connections: int = 1_000
    """The most open connections. A new one beyond that replaces the one that has kept the host waiting longest."""
    header_timeout: float = 10.0
    """The time for the TLS handshake, and for the header of a request."""
    body_timeout: float = 20.0
    """The time for the body of a request, from the end of its header."""
    body_size: int = 1 << 20
    """The most bytes of a body."""
    write_timeout: float = 10.0
    """The time in which a client must read the response, or at least 16 KiB more of it."""
    keep_alive: float = 5.0
    """The time that an idle connection is kept open for the next request."""
    stop_timeout: float = 5.0
    """The time that unfinished requests get when the host stops."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < float("inf"):
                raise ConfigurationError(f"the HTTP limit {field.name} must be positive, not {value}")


def affordable_connections(wanted: int) -> int:
    """Return how many connections may be open at once, after raising the soft limit of open files where that helps.

    Without this bound a flood of connections would use up every file descriptor of the process.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = _open_files() + RESERVED_FILES
    if soft == resource.RLIM_INFINITY or soft >= taken + wanted:
        return wanted
    target = taken + wanted if hard == resource.RLIM_INFINITY else min(taken + wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        soft = target
    except (OSError, ValueError):
        pass
    affordable = min(wanted, max(soft - taken, FEWEST_CONNECTIONS))
    if affordable < wanted:
        log.warning(
            "only %d of %d connections fit into the limit of %d open files; raise it ('ulimit -n')",
            affordable,
            wanted,
            soft,
        )
    return affordable


def _open_files() -> int:
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return RESERVED_FILES
