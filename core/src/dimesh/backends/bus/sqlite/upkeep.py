"""The background work of a session: noticing other processes, releasing delayed records, applying retention."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Coroutine
from typing import Any, Final

from dimesh.backends.bus.sqlite import processes, tables
from dimesh.backends.bus.sqlite.session import Session
from dimesh.clock import CLOCK_LOOK, Handle
from dimesh.errors import StorageError
from dimesh.storage.sqlitefile import explain

log = logging.getLogger("dimesh.bus.sqlite")

_LOOK: Final = 1.0
"""Seconds between checks for processes that ended."""


class Upkeep:
    """The tasks and timers of one open session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._due_timer: Handle | None = None
        self._due_at: float | None = None
        self._retention_timer: Handle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        session.delayed = self.arm_due
        self._spawn(self._watch())
        self._spawn(self._remove_ended())
        self.arm_due()
        self._arm_retention()

    def stop_timers(self) -> None:
        """Begin no further work."""
        for timer in (self._due_timer, self._retention_timer):
            if timer is not None:
                timer.cancel()

    async def close(self) -> None:
        """Cancel the running work."""
        self.stop_timers()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="dimesh-sqlite-upkeep")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- other processes -------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Notice what other processes have changed."""
        session = self._session
        seen = None
        version = None
        while True:
            began = time.perf_counter()
            try:
                data_version = session.watch.execute("PRAGMA data_version").fetchone()[0]
                if version is None:
                    # Streams that were opened before this are up to date with it.
                    version, _ = tables.read_changes(session.watch, 0)
                if data_version != seen:
                    seen = data_version
                    version = self._notify(version)
                    self.arm_due()
            except (sqlite3.Error, UnicodeDecodeError) as error:
                log.warning("cannot check for changes: %s", explain(error, session.path))
            often = session.followers or self._due_at is not None
            pause = session.options.poll if often else 10 * session.options.poll
            # Many topics, each appended to all the time, must not fill the event loop with checks.
            await asyncio.sleep(max(pause, 20 * (time.perf_counter() - began)))

    def _notify(self, version: int) -> int:
        """Notify the streams of what changed after ``version``, and return the version of now."""
        session = self._session
        version, changes = tables.read_changes(session.watch, version)
        for topic, group in changes:
            if not group and topic in session.followers and not tables.read_exists(session.watch, topic):
                session.end_topic(topic)
            else:
                session.kick(topic, group)
        for topic in session.followers:
            session.advance(topic, tables.read_end(session.watch, topic))
        return version

    async def _remove_ended(self) -> None:
        """Remove the processes that ended without leaving, so that their partitions go to others."""
        session = self._session
        lease = session.options.lease
        while True:
            await asyncio.sleep(min(_LOOK, lease / 4))
            if not session.followers:
                continue
            try:
                if processes.read_ended(session.watch, session.token, lease):
                    await session.writer.submit(lambda c: processes.remove_ended(c, session.token, lease))
            except (sqlite3.Error, UnicodeDecodeError) as error:
                log.warning("cannot check for processes that ended: %s", explain(error, session.path))
            except StorageError as error:
                log.warning("cannot remove processes that ended: %s", error)

    # -- delayed records -------------------------------------------------------------------------

    def arm_due(self) -> None:
        """Set the timer for the record that is due first."""
        session = self._session
        if session.closed:
            return
        try:
            due = session.watch.execute("SELECT min(due) FROM delayed").fetchone()[0]
        except (sqlite3.Error, UnicodeDecodeError) as error:
            log.warning("cannot check for delayed records: %s", explain(error, session.path))
            if self._due_timer is not None:
                self._due_timer.cancel()
            self._due_at = None
            self._due_timer = session.clock.call_later(10 * CLOCK_LOOK, self._check_clock)
            return
        if due == self._due_at and self._due_timer is not None:
            return
        if self._due_timer is not None:
            self._due_timer.cancel()
            self._due_timer = None
        self._due_at = due
        if due is not None:
            wait = max(due - session.clock.time(), 0.0)
            if wait <= CLOCK_LOOK:
                self._due_timer = session.clock.call_later(wait, lambda: self._spawn(self._release_due()))
            else:
                self._due_timer = session.clock.call_later(CLOCK_LOOK, self._check_clock)

    def _check_clock(self) -> None:
        self._due_timer = None
        self.arm_due()

    async def _release_due(self) -> None:
        session = self._session
        self._due_timer = None
        self._due_at = None
        now = session.clock.time()
        try:
            released = await session.writer.submit(lambda c: tables.release_due(c, now))
            for topic, latest in released.items():
                session.advance(topic, latest)
        except StorageError as error:
            log.warning("delayed records could not be released; trying again in 1 s: %s", error)
            await session.clock.sleep(1.0)
        self.arm_due()

    # -- retention -------------------------------------------------------------------------------

    def _arm_retention(self) -> None:
        session = self._session
        if not session.closed:
            self._retention_timer = session.clock.call_later(
                session.options.retention_interval, lambda: self._spawn(self._retain())
            )

    async def _retain(self) -> None:
        session = self._session
        options = session.options
        with contextlib.suppress(StorageError):  # tried again after the next interval
            await session.count_sizes()
            while await session.writer.submit(
                lambda c: tables.retain(
                    c,
                    session.clock.time(),
                    options.retention_seconds,
                    options.retention_bytes,
                    options.retention_records,
                ),
                1_000,
            ):
                pass
        self._arm_retention()
