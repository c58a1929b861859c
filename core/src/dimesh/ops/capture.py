"""Change capture as an operator sees it: what can be captured, how far it is, which gaps there were; pausing and rereading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dimesh.capabilities import Capability
from dimesh.errors import (
    CDCError,
    CodecError,
    ConfigurationError,
    DimeshError,
    PayloadError,
    TopicNotFoundError,
)
from dimesh.ops.records import read_records

if TYPE_CHECKING:
    from dimesh.backends.state.sqlite import SqliteCDCStore
    from dimesh.cdc.reports import SourceReport, VerifiedReport
    from dimesh.cdc.state import Progress, ProgressLog
    from dimesh.mesh import Mesh
    from dimesh.settings import MeshSettings, SourceSection

_POLL = 0.05
"""Seconds between two looks at the progress of a snapshot."""


CaptureState = Literal["not running", "running", "failing", "stale", "not in the settings"]


@dataclass(frozen=True, slots=True)
class ObjectCheck:
    """One finding about a source or about one of its objects."""

    source: str
    object: str
    """The name of the object; empty for a finding about the whole source."""
    state: Literal["ok", "problem", "failed"]
    reason: str


@dataclass(frozen=True, slots=True)
class CaptureCheck:
    """The outcome of :func:`check_sources`."""

    ok: bool
    objects: tuple[ObjectCheck, ...]


@dataclass(frozen=True, slots=True)
class ObjectProgress:
    """The progress of one captured object: what is stored, and what the process that captures it has reported last."""

    source: str
    object: str
    phase: str | None
    """The stored phase, ``snapshot`` or ``stream``, or ``backoff`` or ``failed`` while the object cannot be captured; None
    before the first start."""
    paused: bool
    repair: str
    """The cause of the repair that is being read; empty when there is none."""
    pending_repair: str
    """The causes of gaps whose repair has not begun; empty when there are none."""
    rows: int
    """The number of rows of snapshots that were read; counts are of all runs."""
    repairs: int
    """The number of repairs of gaps that began."""
    position: str
    state: CaptureState = "not running"
    """Whether a process captures the object, and whether it can. ``stale``: its process has not reported for a while.
    ``not in the settings``: there is state of a source that the settings do not name, such as one that was renamed."""
    since: str = ""
    """The start of the outage, or of the phase when there is none; times are in ISO 8601, empty if unknown."""
    error: str = ""
    """The error that prevents capturing now; empty when there is none."""
    last_error: str = ""
    """The last error, also after its end."""
    last_error_at: str = ""
    lag: float | None = None
    """The seconds from the last answer of the system to the last report; None: unknown."""
    held_back: float | None = None
    """The seconds for which the source itself held the last change back; None: it does not report that."""
    reported: str = ""
    """The time of the last report."""
    heartbeat: float | None = None
    """The seconds since the last report, while a process captures the object; None: none does, or it has not reported."""
    changes: int = 0
    """The number of changes that were published."""
    last_change: str = ""
    """The time of the last change by the source's clock."""
    gaps: int = 0
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
    budget_used: float | None = None
    """The share of the source's budget of requests that was used in the last minute, from 0 to 1; None: unknown."""
    process: str = ""
    """The machine and the process that captures the object; empty when there is none."""
    standby: str = ""
    """The machine and the process that waits to take over; empty when there is none."""
    verified: Mapping[str, Any] | None = None
    """The findings of the continuous verification since its process started: ``since``, ``at``, ``rows``, the upper bound
    ``upper``, the numbers of wrong rows by kind in ``kinds`` and by field in ``fields``, ``requests``. None without one."""


@dataclass(frozen=True, slots=True)
class GapEntry:
    """A gap, or the repair of one, as it was published."""

    time: str
    source: str
    object: str
    kind: Literal["gap", "repaired"]
    since: str
    until: str
    rows: int | None
    """The number of rows that the repair read; None for a gap."""
    deleted: int | None
    """The number of deletes that the repair found; None for a gap."""
    cause: str


@dataclass(frozen=True, slots=True)
class SnapshotProgress:
    """How far a snapshot is."""

    rows: int
    total: int | None
    """The number of rows that the source expects; None where it does not know."""
    done: bool


def find_sources(settings: MeshSettings, name: str | None = None) -> list[SourceSection]:
    """Return the sources of the settings, or the one with this name.

    Raises:
        ConfigurationError: the settings have no such source, or none at all.
    """
    found = [section for section in settings.sources if name is None or section.name == name]
    if not found:
        known = ", ".join(section.name for section in settings.sources)
        if not known:
            raise ConfigurationError("the settings have no change sources; add [[sources]]")
        raise ConfigurationError(f"the settings have no source {name!r}; there are: {known}")
    return found


def find_object(settings: MeshSettings, name: str, object: str | None) -> SourceSection:
    """Return a source of the settings, after checking that it captures this object.

    Raises:
        ConfigurationError: the settings have no such source.
        CDCError: the source does not capture the object.
    """
    (section,) = find_sources(settings, name)
    if object is not None and object not in section.objects:
        raise CDCError(f"{name} does not capture {object!r}; it captures {', '.join(section.objects)}")
    return section


async def check_sources(mesh: Mesh, name: str | None = None) -> CaptureCheck:
    """Ask each source which objects it can capture. The mesh need not be open.

    Raises:
        ConfigurationError: the settings have no such source.
    """
    found: list[ObjectCheck] = []
    ok = True
    for section in find_sources(mesh.settings, name):
        source = mesh.source(section)
        try:
            await source.open()
            result = await source.check()
        except DimeshError as error:
            found.append(ObjectCheck(section.name, "", "failed", str(error)))
            ok = False
            continue
        finally:
            await source.close()
        found += [ObjectCheck(section.name, "", "problem", problem) for problem in result.problems]
        for one in section.objects:
            reason = result.objects.get(one, "the source has no such object")
            found.append(ObjectCheck(section.name, one, "failed" if reason else "ok", reason))
            ok = ok and not reason
        ok = ok and result.ok
    return CaptureCheck(ok, tuple(found))


async def capture_progress(mesh: Mesh, name: str | None = None) -> list[ObjectProgress]:
    """Return the progress of every object. The mesh must be open; nothing has to run.

    Raises:
        ConfigurationError: the settings have no such source.
    """
    async with open_store(mesh.settings) as store:
        found = []
        exists = Path(store.path).exists()
        objects = {section.name: section.objects for section in find_sources(mesh.settings, name)}
        for source, names in objects.items():
            found += await _of_source(mesh, store if exists else None, source, names)
        if name is None and exists:
            for left in (await store.connectors()).values():
                if left.name not in objects:
                    for one in await _of_source(mesh, store, left.name, left.objects):
                        running = one.state != "not running"
                        found.append(one if running else replace(one, state="not in the settings"))
    return found


async def _of_source(
    mesh: Mesh, store: SqliteCDCStore | None, source: str, objects: Sequence[str]
) -> list[ObjectProgress]:
    """Return the progress of the objects of a source."""
    from dimesh.cdc.reports import load_report
    from dimesh.cdc.state import progress_key
    from dimesh.cdc.turn import load_standby

    log = progress_log(mesh)
    paused = await store.paused(source) if store is not None else frozenset()
    report = await load_report(store, source) if store is not None else None
    running = store is not None and await store.is_claimed(source)
    now = mesh.clock.time()
    waiting = await load_standby(store, source, now) if store is not None else None
    found = []
    for one in objects:
        stored = await log.load(progress_key(source, one))
        progress = _stored(source, one, stored, bool(paused & {"", one}))
        progress = replace(progress, standby=waiting.process if waiting is not None else "")
        found.append(_reported(progress, report, running, now))
    return found


def _stored(source: str, name: str, stored: Progress | None, paused: bool) -> ObjectProgress:
    """Return the progress of an object as it is stored."""
    if stored is None:
        return ObjectProgress(source, name, None, paused, "", "", 0, 0, "")
    return ObjectProgress(
        source,
        name,
        stored.phase,
        paused,
        stored.repair,
        stored.pending_repair,
        stored.rows,
        stored.generation,
        (stored.resume or stored.position).decode("utf-8", "backslashreplace"),
    )


def _reported(
    progress: ObjectProgress, report: SourceReport | None, running: bool, now: float
) -> ObjectProgress:
    """Add to the progress of an object what was reported last by the process that captures it, or did."""
    from dimesh.cdc.health import moment
    from dimesh.cdc.reports import STALE

    seen = None if report is None else report.objects.get(progress.object)
    if report is None or seen is None:
        return replace(progress, state="running" if running else "not running")
    state: CaptureState = "not running"
    if running:
        state = "stale" if now - report.at >= STALE else "failing" if seen.error else "running"
    return replace(
        progress,
        phase=seen.phase if running and seen.error else progress.phase,
        rows=max(seen.rows, progress.rows),
        repairs=max(seen.repairs, progress.repairs),
        state=state,
        since=moment(seen.since) if running else "",
        error=seen.error if running else "",
        last_error=seen.last_error,
        last_error_at=moment(seen.last_error_at),
        lag=round(max(report.at - seen.last_read, 0.0), 1) if running and seen.last_read else None,
        held_back=seen.held_back,
        reported=moment(report.at),
        heartbeat=round(max(now - report.at, 0.0), 1) if running else None,
        changes=seen.changes,
        last_change=moment(seen.last_change),
        gaps=seen.gaps,
        repaired=seen.repaired,
        deleted=seen.deleted,
        missing=seen.missing,
        skipped=seen.skipped,
        requests=seen.requests,
        budget_used=report.account.get("budget_used") if running else None,
        process=report.process if running else "",
        verified=_verified(seen.verified),
    )


def _verified(found: VerifiedReport | None) -> Mapping[str, Any] | None:
    import msgspec

    from dimesh.cdc.health import moment

    if found is None:
        return None
    return {**msgspec.to_builtins(found), "since": moment(found.since), "at": moment(found.at)}


async def gap_history(mesh: Mesh, name: str | None = None) -> list[GapEntry]:
    """Return the gaps that were published and their repairs, oldest first. The mesh must be open.

    Raises:
        ConfigurationError: the settings have no such source.
    """
    from dimesh.cdc.events import GAP_TYPE, REPAIRED_TYPE

    sections = find_sources(mesh.settings, name)
    names = {section.name for section in sections}
    found = []
    for topic in sorted(await _topics(mesh, sections)):
        try:
            async for delivery in read_records(mesh.bus, topic):
                if delivery.record.event_type not in (GAP_TYPE, REPAIRED_TYPE):
                    continue
                event = delivery.record.event
                payload = event.payload
                if payload["connector_id"] not in names:
                    continue
                found.append(
                    GapEntry(
                        event.metadata.timestamp.isoformat()[:19],
                        payload["connector_id"],
                        payload["object"],
                        "gap" if event.event_type.value == GAP_TYPE else "repaired",
                        (payload.get("since") or "")[:19],
                        (payload.get("until") or "")[:19],
                        payload.get("rows"),
                        payload.get("deleted"),
                        payload["cause"],
                    )
                )
        except (TopicNotFoundError, CodecError, PayloadError, KeyError):
            continue
    return found


async def _topics(mesh: Mesh, sections: Iterable[SourceSection]) -> set[str]:
    """Return the topics of sources. Once a source was captured, its driver and its secrets are not needed for that."""
    from dimesh.cdc.reports import load_report

    found = {section.topic for section in sections if section.topic is not None}
    async with open_store(mesh.settings) as store:
        exists = Path(store.path).exists()
        for section in sections:
            if section.topic is None:
                report = await load_report(store, section.name) if exists else None
                system = report.system if report is not None else mesh.source(section).system
                found.add(f"cdc.{system}")
    return found


async def start_capture(mesh: Mesh, names: Sequence[str] = (), objects: Sequence[str] = ()) -> None:
    """Start capturing in this process. The mesh must be open, and stops the capture when it is closed.

    Args:
        mesh: the mesh.
        names: only these sources; empty: all.
        objects: only these objects; empty: all.

    Raises:
        ConfigurationError: the settings have no such source, or none of them captures one of the objects.
    """
    chosen = [section for name in (names or (None,)) for section in find_sources(mesh.settings, name)]
    wanted = {
        section.name: [one for one in section.objects if not objects or one in objects] for section in chosen
    }
    for one in objects:
        if not any(one in found for found in wanted.values()):
            raise ConfigurationError(f"no source that is to run captures {one!r}")
    await mesh.capture([(section, wanted[section.name]) for section in chosen if wanted[section.name]])


async def resnapshot(mesh: Mesh, name: str, object: str) -> AsyncIterator[SnapshotProgress]:
    """Read all rows of an object again and yield the progress; the last one yielded is done. The mesh must be open.

    Raises:
        ConfigurationError: the settings have no such source.
        CDCError: the source does not capture the object, the object is paused, or reading it failed.
    """
    connector = mesh.connector(find_object(mesh.settings, name, object))
    await connector.resnapshot(object)
    await connector.start([object])
    while True:
        at: dict[str, Any] = connector.get_status()["objects"][object]
        if at["phase"] == "paused":
            raise CDCError(f"{object} of {name} is paused: 'dimesh cdc resume' it first")
        if at["phase"] == "failed":
            raise CDCError(at["last_error"])
        done = at["phase"] == "stream"
        yield SnapshotProgress(at["snapshot_rows"], at["snapshot_total"], done)
        if done:
            return
        await asyncio.sleep(_POLL)


async def pause(mesh: Mesh, name: str, object: str | None = None) -> None:
    """Pause a source, or one of its objects, in whichever process captures it. The mesh need not be open.

    Raises:
        ConfigurationError: the settings have no such source.
        CDCError: the source does not capture the object.
    """
    find_object(mesh.settings, name, object)
    async with open_store(mesh.settings) as store:
        await store.pause(name, object)


async def resume(mesh: Mesh, name: str, object: str | None = None) -> None:
    """Resume a source, or one of its objects. The mesh need not be open.

    Raises:
        ConfigurationError: the settings have no such source.
        CDCError: the source does not capture the object, or the whole source is paused.
    """
    find_object(mesh.settings, name, object)
    async with open_store(mesh.settings) as store:
        await store.resume(name, object)
        if object is not None and "" in await store.paused(name):
            raise CDCError(f"all of {name} is paused: resume it without naming an object")


async def reset(mesh: Mesh, name: str, object: str) -> None:
    """Forget the progress of an object, so that the next start reads all of it. The mesh must be open.

    Raises:
        ConfigurationError: the settings have no such source.
        CDCError: the source does not capture the object.
    """
    await mesh.connector(find_object(mesh.settings, name, object)).reset(object)


def progress_log(mesh: Mesh) -> ProgressLog:
    """Return the progress of all sources of a mesh, from the bus or from the store."""
    from dimesh.cdc.state import ProgressLog

    atomic = Capability.ATOMIC_STATE in mesh.bus.capabilities
    return ProgressLog(mesh.bus, None if atomic else mesh.cdc_store)


@asynccontextmanager
async def open_store(settings: MeshSettings) -> AsyncIterator[SqliteCDCStore]:
    """Open the store of capture until the end of the block."""
    from dimesh.backends.state.sqlite import SqliteCDCStore

    store = SqliteCDCStore(settings.cdc.state)
    try:
        yield store
    finally:
        await store.close()
