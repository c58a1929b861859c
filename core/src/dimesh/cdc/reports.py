"""Reports of running connectors: for metrics and readiness in this process, and through the store of capture for other ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec
from msgspec.structs import replace

from dimesh.cdc.health import ObjectHealth
from dimesh.cdc.state import Progress
from dimesh.clock import Clock
from dimesh.spi.cdc import Change
from dimesh.spi.state import StateStore

HEARTBEAT: Final = 10.0
"""The seconds after which a report is stored again although only the times of reading changed."""
STALE: Final = 3 * HEARTBEAT
"""The age in seconds from which a report of a running connector counts as stale: its process hangs, or cannot store reports."""


class VerifiedReport(msgspec.Struct, kw_only=True, frozen=True):
    """What the continuous verification of one object has found since the process started."""

    since: float
    at: float
    rows: int
    """The number of rows that were compared with the source."""
    upper: float
    """The upper bound of the share of wrong rows, with 95 % confidence."""
    kinds: dict[str, int] = {}
    """The number of wrong rows, by kind."""
    fields: dict[str, int] = {}
    """The number of wrong rows, by field."""
    requests: int = 0


class ObjectReport(msgspec.Struct, kw_only=True, frozen=True):
    """One captured object. Times are seconds of the wall clock; 0: never, or unknown. Counts are of all runs."""

    phase: str
    since: float = 0.0
    """The start of the outage, or of the phase when there is none."""
    error: str = ""
    """The error that prevents capturing now; empty when there is none."""
    last_error: str = ""
    last_error_at: float = 0.0
    errors: int = 0
    """The number of errors since the process started."""
    last_read: float = 0.0
    """The time of the last answer of the system."""
    last_change: float = 0.0
    """The time of the last change by the source's clock."""
    held_back: float | None = None
    """The seconds for which the source itself held the last change back; None: it does not report that."""
    repair: str = ""
    """The cause of the repair that is being read; empty when there is none."""
    rows: int = 0
    """The number of rows of snapshots that were read."""
    changes: int = 0
    """The number of changes that were published."""
    gaps: int = 0
    repairs: int = 0
    """The number of repairs of gaps that began."""
    repaired: int = 0
    """The number of repairs of gaps that ended."""
    deleted: int = 0
    """The number of rows that repairs found to be deleted."""
    missing: int = 0
    """The number of rows that the last repair did not see, and whose fate the system does not tell."""
    skipped: int = 0
    """The number of changes that were not published, since they name no row."""
    requests: int = 0
    """The number of requests to the system."""
    delivered_until: float = 0.0
    """The time up to which everything that the system showed is published."""
    verified: VerifiedReport | None = None
    """The findings of the continuous verification; None without one."""
    generation: int = 0
    """The number of repairs that the progress counts, so that each is counted once, whichever process began it."""


@dataclass(slots=True)
class RunnerStats:
    """The counters of a runner since its start."""

    changes: int = 0
    snapshot_rows: int = 0
    snapshot_total: int | None = None
    """The approximate number of rows of the snapshot; None if the source does not report it."""
    snapshot_eta: float | None = None
    """The approximate number of seconds until the snapshot ends; None: unknown, or there is no snapshot."""
    gaps: int = 0
    own_repairs: int = 0
    """The number of gaps that the source repaired by itself."""
    repaired: int = 0
    """The number of repairs that ended."""
    deleted: int = 0
    """The number of rows that repairs found to be deleted."""
    missing: int | None = None
    """The number of rows that the last repair did not see, and whose fate the system does not tell; None: no repair ended."""
    skipped: int = 0
    """The number of changes that were not published, since they name no row."""
    errors: int = 0
    last_error: str | None = None
    last_change: datetime | None = None
    """The time of the last change by the source's clock."""
    held_back: float | None = None
    """The seconds for which the source itself held the last change back; None: it does not report that."""

    def note(self, last: Change) -> None:
        """Record the last change of a batch."""
        self.last_change = last.timestamp
        if last.visible is not None:
            self.held_back = round(max((last.visible - last.timestamp).total_seconds(), 0.0), 3)

    def report(
        self, earlier: ObjectReport, health: ObjectHealth, progress: Progress | None, **now: Any
    ) -> ObjectReport:
        """Return a report that continues the numbers of an earlier one.

        Args:
            earlier: the last report of earlier runs.
            health: the health of the object.
            progress: its progress; None before the start.
            now: the fields that are not numbers of this run.
        """
        generation = earlier.generation if progress is None else progress.generation
        begun = generation - earlier.generation if generation >= earlier.generation else generation
        return ObjectReport(
            **now,
            last_error=health.last_error or earlier.last_error,
            last_error_at=health.last_error_at or earlier.last_error_at,
            errors=self.errors,
            last_read=health.last_read or earlier.last_read,
            last_change=self.last_change.timestamp() if self.last_change else earlier.last_change,
            held_back=earlier.held_back if self.held_back is None else self.held_back,
            repair="" if progress is None else progress.repair,
            rows=earlier.rows + self.snapshot_rows,
            changes=earlier.changes + self.changes,
            gaps=earlier.gaps + self.gaps,
            repairs=earlier.repairs + begun + self.own_repairs,
            repaired=earlier.repaired + self.repaired,
            deleted=earlier.deleted + self.deleted,
            missing=earlier.missing if self.missing is None else self.missing,
            skipped=earlier.skipped + self.skipped,
            requests=earlier.requests + health.requests,
            delivered_until=health.delivered_until,
            generation=generation,
        )


class SourceReport(msgspec.Struct, kw_only=True, frozen=True):
    """One connector."""

    at: float
    """The time of the report."""
    system: str
    status: str
    objects: dict[str, ObjectReport]
    account: dict[str, float] = {}
    """The use of the account's allowances, as far as the source knows it."""
    process: str = ""
    """The machine and the process that made the report."""
    heartbeat: float = 0.0
    """The time of the last report that was stored before this one; 0 if there was none."""


class Reporter(Protocol):
    """What is reported on."""

    def report(self) -> SourceReport:
        """Return the report as of now."""
        ...


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(SourceReport).decode


def report_key(connector_id: str) -> str:
    """Return the key under which the report of a connector is stored."""
    return f"report of {connector_id}"


async def load_report(store: StateStore, connector_id: str) -> SourceReport | None:
    """Return the report that was stored last; None if there is none that this version understands.

    Raises:
        StorageError: the store cannot be read.
    """
    raw = await store.load(report_key(connector_id))
    try:
        return _decode(raw) if raw else None
    except msgspec.MsgspecError:
        return None


class ReportWriter:
    """Stores the reports of one connector: a change of the state soon, the times of reading now and then.

    Args:
        connector_id: its id.
        reporter: makes the reports.
        store: where they are stored.
        clock: time.
        others: the last reports of objects that do not run now, which are kept.
    """

    def __init__(
        self,
        connector_id: str,
        reporter: Reporter,
        store: StateStore,
        clock: Clock,
        others: Mapping[str, ObjectReport],
    ) -> None:
        self._connector_id = connector_id
        self._reporter = reporter
        self._store = store
        self._clock = clock
        self._others = {name: replace(one, phase="stopped", error="") for name, one in others.items()}
        self._written: SourceReport | None = None
        self._at = 0.0

    async def write(self) -> float:
        """Store the report if it has changed; return the time of the report that was stored last.

        Raises:
            StorageError: the store cannot be written.
        """
        report = self._reporter.report()
        report = replace(report, objects={**self._others, **report.objects})
        now = self._clock.monotonic()
        if self._written is None or now - self._at >= HEARTBEAT or _state(report) != _state(self._written):
            await self._store.save(report_key(self._connector_id), _encode(report))
            self._written, self._at = report, now
        return self._written.at


def _state(report: SourceReport) -> SourceReport:
    """Return a report without what changes with every poll."""
    objects = {
        name: replace(
            one,
            last_read=0.0,
            last_error_at=0.0,
            errors=0,
            requests=0,
            delivered_until=float(one.delivered_until > 0),
            verified=replace(one.verified, at=0.0, rows=0, upper=0.0, requests=0) if one.verified else None,
        )
        for name, one in report.objects.items()
    }
    return replace(report, at=0.0, heartbeat=0.0, account={}, objects=objects)
