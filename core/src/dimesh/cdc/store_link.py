"""What a connector shares with other processes through the store of capture: its reports go out, and pauses come in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from dimesh.cdc.reports import ObjectReport, Reporter, ReportWriter, load_report
from dimesh.cdc.runner import ObjectRunner
from dimesh.clock import Clock
from dimesh.errors import StorageError
from dimesh.spi.state import CaptureStore

log = logging.getLogger("dimesh.cdc")

STORE_INTERVAL: Final = 0.5
"""Seconds between two looks into the store: whether another process requests a pause, and whether there is news to store."""


class StoreLink:
    """Stores the reports of one connector, and applies the pauses that other processes request.

    Args:
        connector_id: the id of the connector.
        reporter: makes the reports.
        runners: the runners of the connector, by object.
        store: the store; None: nothing is shared.
        clock: time.
    """

    def __init__(
        self,
        connector_id: str,
        reporter: Reporter,
        runners: Mapping[str, ObjectRunner],
        store: CaptureStore | None,
        clock: Clock,
    ) -> None:
        self.earlier: Mapping[str, ObjectReport] = {}
        """The reports of the last run, in this process or an earlier one, by object."""
        self.heartbeat = 0.0
        """The time of the last report that was stored; 0 if there was none."""
        self._connector_id = connector_id
        self._reporter = reporter
        self._runners = runners
        self._store = store
        self._clock = clock

    async def load(self) -> None:
        """Load what the last run reported.

        Raises:
            StorageError: the store cannot be read.
        """
        if self._store is not None:
            report = await load_report(self._store, self._connector_id)
            self.earlier = report.objects if report is not None else {}

    async def paused(self) -> frozenset[str]:
        """Return the objects that are requested to pause; an empty name stands for all.

        Raises:
            StorageError: the store cannot be read.
        """
        return await self._store.paused(self._connector_id) if self._store is not None else frozenset()

    async def run(self, turn: asyncio.Event) -> None:
        """Keep in touch, without end.

        Args:
            turn: an event that is set once this process captures.
        """
        if self._store is None:
            return
        if not turn.is_set():
            await turn.wait()
            await self._continue_numbers()
        reports = self._writer(self._store)
        while True:
            await self._write(reports)
            await self._clock.sleep(STORE_INTERVAL)
            try:
                asked = await self.paused()
            except StorageError as error:
                log.warning("%s: cannot check for requested pauses: %s", self._connector_id, error)
                continue
            for runner in self._runners.values():
                apply_pause(runner, asked)

    async def report(self) -> None:
        """Store the last report."""
        if self._store is not None:
            await self._write(self._writer(self._store))

    def _writer(self, store: CaptureStore) -> ReportWriter:
        return ReportWriter(self._connector_id, self._reporter, store, self._clock, self.earlier)

    async def _write(self, reports: ReportWriter) -> None:
        try:
            self.heartbeat = await reports.write()
        except StorageError as error:
            log.warning("%s: cannot store its state for other processes: %s", self._connector_id, error)

    async def _continue_numbers(self) -> None:
        """Continue the numbers of the process that captured until now."""
        try:
            await self.load()
        except StorageError as error:
            log.warning("%s: cannot load its last report: %s", self._connector_id, error)
        for name, runner in self._runners.items():
            runner.earlier = self.earlier.get(name, runner.earlier)


def apply_pause(runner: ObjectRunner, paused: frozenset[str]) -> None:
    """Let a runner pause or continue, as requested; an empty name stands for all objects."""
    if paused & {"", runner.object}:
        runner.allowed.clear()
    else:
        runner.allowed.set()
