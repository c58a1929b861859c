"""The status of a connector, and of the objects that it captures."""

from __future__ import annotations

from enum import Enum
from typing import Any

from dimesh.cdc.health import moment
from dimesh.cdc.runner import ObjectRunner


class CDCConnectorStatus(Enum):
    """The status of a connector as a whole."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    SYNCING = "syncing"
    """The connector is reading a snapshot."""
    ERROR = "error"
    """At least one object cannot be captured; the other objects are captured normally."""
    PAUSED = "paused"


def object_status(runner: ObjectRunner) -> dict[str, Any]:
    """Return the status of an object as plain values. Counts are those of this run."""
    stats, report, progress = runner.stats, runner.report(), runner.progress
    return {
        "phase": report.phase,
        "since": moment(report.since),
        "error": report.error or None,
        "changes": stats.changes,
        "snapshot_rows": stats.snapshot_rows,
        "snapshot_total": stats.snapshot_total,
        "snapshot_eta": stats.snapshot_eta,
        "gaps": stats.gaps,
        "repaired": stats.repaired,
        "deleted": stats.deleted,
        "missing": stats.missing or 0,
        "skipped": stats.skipped,
        "requests": runner.health.requests,
        "held_back": stats.held_back,
        "pending_repair": (progress.pending_repair or None) if progress is not None else None,
        "errors": stats.errors,
        "last_error": stats.last_error,
        "last_change": stats.last_change.isoformat() if stats.last_change else None,
    }
