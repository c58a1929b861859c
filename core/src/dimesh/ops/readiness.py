"""Whether a running mesh is ready: it has started, its bus answers, and its handlers and sources work."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dimesh.bus.options import SubscriptionState
from dimesh.errors import NotOfferedError, describe
from dimesh.mesh import Mesh
from dimesh.ops.topics import PartitionLag, list_partitions
from dimesh.secrets import mask_urls

BUS_TIMEOUT: Final = 2.0
"""The seconds within which the bus must answer."""
KEPT_FOR: Final = 1.0
"""The seconds for which an answer of the bus is used again, however often somebody asks."""
_MAX_REASON: Final = 500


class Stage(StrEnum):
    """The stage of a process that runs a mesh."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class NotReady:
    """One part that is not ready."""

    part: str
    """``mesh``, ``bus``, ``handler`` or ``source``."""
    name: str
    reason: str
    since: str = ""
    """The time since when, in ISO 8601; empty if unknown."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """The outcome of :meth:`Watch.readiness`."""

    ready: bool
    stage: Stage
    problems: tuple[NotReady, ...]


class Watch:
    """Watches one mesh from the process that runs it.

    Args:
        mesh: the mesh.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.stage = Stage.STARTING
        self._asking: asyncio.Task[Sequence[PartitionLag]] | None = None
        self._asked = 0.0
        self._groups: Sequence[PartitionLag] = ()
        self._bus_problem = ""

    async def readiness(self) -> Readiness:
        """Return whether the mesh is ready, and what is not."""
        if self.stage is not Stage.RUNNING:
            reason = f"the process is {self.stage.value}"
            return Readiness(False, self.stage, (NotReady("mesh", self.mesh.settings.mesh.name, reason),))
        _, bus = await self.groups()
        problems = [NotReady("bus", self.mesh.settings.bus.driver, bus)] if bus else []
        problems += self._handlers()
        problems += self._sources()
        return Readiness(not problems, self.stage, tuple(problems))

    async def groups(self) -> tuple[Sequence[PartitionLag], str]:
        """Return the lag of the groups, and why the bus does not answer; empty if it does. One question at a time is asked."""
        loop = asyncio.get_running_loop()
        if self._asking is None and (loop.time() - self._asked >= KEPT_FOR or not self._asked):
            self._asking = asyncio.create_task(list_partitions(self.mesh.bus), name="dimesh-health-bus")
        asking = self._asking
        if asking is None:
            return self._groups, self._bus_problem
        await asyncio.wait((asking,), timeout=BUS_TIMEOUT)
        if not asking.done():
            self._bus_problem = f"no answer within {BUS_TIMEOUT:g} s"
        elif asking is self._asking:  # otherwise another caller has read the answer
            self._asking = None
            self._asked = loop.time()
            self._bus_problem = ""
            try:
                self._groups = asking.result()
            except NotOfferedError:
                self._groups = ()  # it works, and cannot list groups
            except Exception as error:
                self._bus_problem = mask_urls(describe(error))[:_MAX_REASON]
        return self._groups, self._bus_problem

    def close(self) -> None:
        """Wait for the bus no longer."""
        if self._asking is not None:
            self._asking.cancel()

    def _handlers(self) -> list[NotReady]:
        found = []
        for id, stats in self.mesh.bus.stats().items():
            subscription = self.mesh.bus.subscription(id)
            name = f"{subscription.spec.handler.name} of {subscription.spec.topic}"
            if subscription.spec.group is None:
                continue
            if stats.state in (SubscriptionState.OPEN, SubscriptionState.HALF_OPEN):
                found.append(
                    NotReady("handler", name, "most of its calls failed: its circuit breaker is open")
                )
            elif subscription.finished.done():
                found.append(NotReady("handler", name, "its topic was deleted"))
        return found

    def _sources(self) -> list[NotReady]:
        from dimesh.cdc.health import moment

        return [
            NotReady("source", f"{name}/{of}", one.error, moment(one.since))
            for name, report in self.mesh.source_reports().items()
            for of, one in report.objects.items()
            if one.error
        ]
