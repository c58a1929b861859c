"""The standing of a captured object: whether its rows can be compared now, and how far its stream is."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, Protocol

from dimesh.cdc.reports import ObjectReport
from dimesh.cdc.state import Progress


class Obstacle(Enum):
    """The reasons for which the rows of an object cannot be compared now: differences are to be expected."""

    NOT_RUNNING = "nothing captures the object"
    NOT_STARTED = "the object was not captured yet"
    PAUSED = "the object is paused"
    SNAPSHOT = "the first snapshot is being read"
    REPAIR = "a repair is being read"
    LISTING = "its rows are listed again"
    GAP = "a gap waits for its repair"
    SILENT = "its capture does not report how far it is"
    FAILING = "the object cannot be captured now"

    @property
    def passes_soon(self) -> bool:
        """Whether it is worth waiting for the end of it."""
        return self is Obstacle.FAILING


class Standing(NamedTuple):
    """The standing of an object."""

    obstacle: Obstacle | None
    delivered_until: float
    """The time of our clock up to which everything that the system showed is published."""


class Feed(Protocol):
    """A captured object, in this process or another one."""

    async def standing(self) -> Standing:
        """Return the standing of the object as it is known now."""
        ...


def standing_of(
    report: ObjectReport | None, progress: Progress | None, running: bool, paused: bool
) -> Standing:
    """Return the standing of an object.

    Args:
        report: the last report of the process that captures it.
        progress: its stored progress.
        running: whether a process captures it.
        paused: whether it is asked to pause.
    """
    until = report.delivered_until if report is not None else 0.0
    obstacle: Obstacle | None = None
    if paused:
        obstacle = Obstacle.PAUSED
    elif not running:
        obstacle = Obstacle.NOT_RUNNING
    elif progress is None:
        obstacle = Obstacle.NOT_STARTED
    elif progress.phase == "snapshot":
        first = Obstacle.LISTING if progress.relisting else Obstacle.SNAPSHOT
        obstacle = Obstacle.REPAIR if progress.repair else first
    elif progress.pending_repair:
        obstacle = Obstacle.GAP
    elif report is None or report.error or report.phase != "stream":
        obstacle = Obstacle.FAILING
    return Standing(obstacle, until)


class Runs(Protocol):
    """The runner of an object."""

    @property
    def progress(self) -> Progress | None:
        """The progress that was stored last; None before the start."""
        ...

    def report(self) -> ObjectReport:
        """Return the state as operators see it."""
        ...


class RunnerFeed:
    """An object that this process captures.

    Args:
        runner: its runner.
    """

    def __init__(self, runner: Runs) -> None:
        self._runner = runner

    async def standing(self) -> Standing:
        """Return the standing of the object."""
        report = self._runner.report()
        return standing_of(report, self._runner.progress, report.phase != "stopped", report.phase == "paused")
