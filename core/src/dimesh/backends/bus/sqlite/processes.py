"""The processes that use the file: their heartbeats, and the removal of those that have ended.

A process sends one heartbeat for all its memberships. The writer's thread sends it (:class:`Heartbeat`), so that it waits
neither for handlers nor for an event loop that one of them blocks. Times are those of a clock that all processes of a boot share.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from typing import Final

from dimesh.storage.process import ProcessId, shared_time, this_process

log = logging.getLogger("dimesh.bus.sqlite")

BEATS: Final = 3
"""The number of heartbeats in a lease."""


def beat(connection: sqlite3.Connection, token: str) -> None:
    """Send a heartbeat; register the process if it is unknown, as it is after others have removed it."""
    connection.execute(
        "INSERT INTO processes VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (token) DO UPDATE SET seen = excluded.seen",
        (token, *this_process(), shared_time()),
    )


def read_ended(connection: sqlite3.Connection, token: str, lease: float) -> list[str]:
    """Return the tokens of the processes that have ended, or have sent no heartbeat within the lease; never the own ``token``."""
    now = shared_time()
    return [
        other
        for other, boot, namespace, pid, started, seen in connection.execute("SELECT * FROM processes")
        if other != token
        # A time in the future is one of an earlier boot, on a system that does not report its boots.
        and (abs(now - seen) > lease or ProcessId(boot, namespace, pid, started).has_ended())
    ]


def remove(connection: sqlite3.Connection, token: str) -> None:
    """Remove a process with its memberships."""
    connection.execute("DELETE FROM processes WHERE token = ?", (token,))
    orphans = "token IN (SELECT token FROM members WHERE process = ?)"
    mark_changed(connection, "SELECT DISTINCT topic, grp FROM members WHERE process = ?", (token,))
    connection.execute(f"DELETE FROM owners WHERE {orphans}", (token,))
    connection.execute("DELETE FROM members WHERE process = ?", (token,))


def remove_ended(connection: sqlite3.Connection, token: str, lease: float) -> None:
    """Remove the processes that :func:`read_ended` finds."""
    for other in read_ended(connection, token, lease):
        remove(connection, other)


def mark_changed(connection: sqlite3.Connection, groups: str, parameters: tuple[object, ...]) -> None:
    """Notify the members of groups, in all processes, that the members or partitions changed.

    Args:
        connection: a connection that may write.
        groups: a query that yields topic and group; an empty group stands for every stream of the topic.
        parameters: the parameters of the query.
    """
    connection.execute(
        "INSERT OR REPLACE INTO changes (topic, grp, version)"
        f" SELECT topic, grp, (SELECT coalesce(max(version), 0) + 1 FROM changes) FROM ({groups})",
        parameters,
    )


class Heartbeat:
    """The heartbeat of this process, as the writer's thread sends it.

    A process whose event loop does not run keeps its partitions for ``stall`` seconds: its handlers may be at work, but nothing
    bounds them any more.
    """

    def __init__(self, token: str, lease: float, stall: float) -> None:
        self.interval = lease / BEATS
        self._token = token
        self._stall = stall
        self._loop = asyncio.get_running_loop()
        self._ran = shared_time()
        """The time at which the event loop ran last."""

    def __call__(self, connection: sqlite3.Connection) -> None:
        """Send a heartbeat, unless the event loop has not run for too long."""
        stalled = shared_time() - self._ran
        if self._loop.is_closed():
            return  # it ended without closing the bus: nobody handles anything
        if stalled > self._stall:
            log.error(
                "the event loop has not run for %.0f s, so other processes take over the partitions of this one: a handler "
                "blocks it. Make the handler a plain function, which runs in a thread, or await what it waits for",
                stalled,
            )
        else:
            beat(connection, self._token)
        with contextlib.suppress(RuntimeError):  # closed just now
            self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        self._ran = shared_time()
