"""The health of a mesh, found by doing: settings, plugins, handlers, sources, storage, a round trip, lag and dead letters.

Every check has a time limit, and one that hangs does not stop the others: it is reported and left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import uuid4

from dimesh.bus.redrive import DeadLetters
from dimesh.bus.threads import ThreadPool
from dimesh.capabilities import Capability
from dimesh.errors import ConfigurationError, DimeshError, TopicNotFoundError, describe
from dimesh.events.event import Event
from dimesh.handlers import handler_of, subscription_options
from dimesh.mesh import Mesh
from dimesh.ops import machine
from dimesh.ops.backup import embedded_files
from dimesh.ops.capture import capture_progress, check_sources
from dimesh.ops.results import CheckResult, Outcome, warn_if
from dimesh.ops.topics import list_partitions, list_stopped
from dimesh.settings import (
    DriverSection,
    HandlerSection,
    LoadedSettings,
    MeshSettings,
    SourceSection,
    check_references,
)
from dimesh.spi.bus import TopicConfig

T = TypeVar("T")

LIMIT: Final = 60.0
"""The seconds that one check may take. A broker that cannot be reached answers before that."""
_TOPIC: Final = "dimesh.doctor."
"""The beginning of the names of the topics that are made for a round trip, and removed after it."""


async def diagnose(load: Callable[[], LoadedSettings], limit: float = LIMIT) -> AsyncIterator[CheckResult]:
    """Check a mesh from its settings on, and yield each result, under a name of its own. It opens the mesh, and closes it again.

    Args:
        load: returns the settings; its error is a result.
        limit: the seconds that one check may take.
    """
    names: dict[str, int] = {}
    async with aclosing(_results(load, limit)) as results:
        async for result in results:
            names[result.check] = count = names.get(result.check, 0) + 1
            yield result if count == 1 else replace(result, check=f"{result.check} ({count})")


async def _results(load: Callable[[], LoadedSettings], limit: float) -> AsyncGenerator[CheckResult]:
    yield machine.check_sqlite()
    try:
        loaded = load()
    except DimeshError as error:
        yield CheckResult("settings", Outcome.FAILED, str(error), "correct the settings")
        return
    settings = loaded.settings
    unset = _unset(settings)
    yield CheckResult(
        "settings",
        Outcome.FAILED if unset else Outcome.OK,
        "; ".join(unset) or str(loaded.path or "defaults and environment"),
        "set these variables for this process" if unset else "",
    )
    for section in settings.handlers:
        yield await _bounded(f"handler {section.call}", limit, _handler(section))
    # Before the mesh is opened, which makes them private.
    files = _files(settings)
    yield await _bounded("file modes", limit, _in_thread(partial(machine.check_modes, files)))
    try:
        mesh = Mesh(settings)
    except DimeshError as error:
        yield CheckResult("plugins", Outcome.FAILED, str(error))
        return
    yield _plugins(mesh)
    for result in await asyncio.gather(
        *(
            _bounded(f"source {section.name}", limit, _source(mesh, section))
            for section in {section.name: section for section in settings.sources}.values()
        )
    ):
        yield result
    try:
        opened = await _bounded("bus", limit, _open(mesh))
        if opened.outcome is Outcome.FAILED:
            yield opened
            return
        async for result in _bus(mesh, limit, files):
            yield result
    finally:
        await mesh.close()


def _unset(settings: MeshSettings) -> list[str]:
    """Return what is missing of the environment: not every command needs it, but some do."""
    found = []
    sections: list[DriverSection | SourceSection] = [settings.registry, settings.lineage, *settings.sources]
    for section in sections:
        try:
            check_references(section.options)
        except ConfigurationError as error:
            found.append(str(error))
    return found


def _files(settings: MeshSettings) -> list[Path]:
    """Return the files of the mesh, as far as the settings name them."""
    try:
        return embedded_files(settings)
    except ConfigurationError:  # a variable is not set, which is reported
        return []


async def _bounded(check: str, limit: float, work: Coroutine[Any, Any, CheckResult]) -> CheckResult:
    """Return the result of a check, or a failure if it raises or takes longer than ``limit`` seconds."""
    task = asyncio.create_task(work, name=f"dimesh-doctor-{check}")
    try:
        done, _ = await asyncio.wait((task,), timeout=limit)
    except BaseException:
        task.cancel()
        raise
    if not done:
        task.cancel()  # not awaited: it may swallow that
        return CheckResult(
            check,
            Outcome.FAILED,
            f"no answer within {limit:g} s",
            "check the network, the disk and the code that it waits for, and try again",
        )
    try:
        return task.result()
    except DimeshError as error:
        return CheckResult(check, Outcome.FAILED, str(error))
    except Exception as error:
        return CheckResult(check, Outcome.FAILED, describe(error))


async def _in_thread(work: Callable[[], T]) -> T:
    """Return the result of ``work``, which may hang: its thread does not keep the process from ending."""

    def call() -> T:
        try:
            return work()
        except SystemExit as left:
            raise ConfigurationError(f"it has ended the process by sys.exit({left.code!r:.100})") from left

    threads = ThreadPool("dimesh-doctor")
    try:
        result: T = await threads.run(call)
        return result
    finally:
        threads.close()


async def _handler(section: HandlerSection) -> CheckResult:
    def load() -> None:
        handler_of(section)
        subscription_options(section)

    await _in_thread(load)
    return CheckResult(f"handler {section.call}", Outcome.OK, "can be imported")


async def _source(mesh: Mesh, section: SourceSection) -> CheckResult:
    check = f"source {section.name}"
    found = await check_sources(mesh, section.name)
    problems = [
        f"{one.object}: {one.reason}" if one.object else one.reason for one in found.objects if one.reason
    ]
    if found.ok and not problems:
        return CheckResult(check, Outcome.OK, f"{', '.join(section.objects)} can be captured")
    return CheckResult(
        check,
        Outcome.WARNING if found.ok else Outcome.FAILED,
        "; ".join(problems),
        f"'dimesh cdc check {section.name}' shows each object",
    )


async def _open(mesh: Mesh) -> CheckResult:
    await mesh.open()
    return CheckResult("bus", Outcome.OK, "open")


def _plugins(mesh: Mesh) -> CheckResult:
    bad = [row for row in mesh.plugins.rows() if row.state in ("failed", "conflict")]
    detail = "; ".join(f"{row.kind} {row.name}: {row.reason}" for row in bad)
    return CheckResult("plugins", warn_if(bool(bad)), detail or "none failed")


async def _bus(mesh: Mesh, limit: float, files: list[Path]) -> AsyncIterator[CheckResult]:
    yield _durability(mesh)
    yield await _bounded("round trip", limit, _round_trip(mesh))
    findings = mesh.bus.door.check()
    while True:
        # A check of a broker waits several times; each finding has its own limit.
        found: list[CheckResult] = []

        async def advance(found: list[CheckResult] = found) -> CheckResult:
            async for finding in findings:
                found.append(CheckResult(finding.name, _outcome(finding.ok), finding.text))
                break
            return CheckResult("", Outcome.OK, "")

        ended = await _bounded(mesh.bus.door.name, limit, advance())
        if ended.outcome is Outcome.FAILED:
            yield ended
            break
        if not found:
            break
        yield found[0]
    folders = _folders(mesh)
    for folder in folders:
        yield await _bounded("disk", limit, _in_thread(partial(machine.check_space, folder)))
        yield await _bounded("flush", limit, _in_thread(partial(machine.check_flush, folder)))
    yield await _bounded("groups", limit, _groups(mesh))
    if mesh.settings.sources:
        yield await _bounded("sources", limit, _sources(mesh))
    yield await _bounded("dead letters", limit, _dead_letters(mesh))
    yield await _bounded("clock", limit, _in_thread(partial(machine.check_clock, folders, files)))


def _folders(mesh: Mesh) -> list[Path]:
    """Return the folders with files of the mesh, one for each disk."""
    path = mesh.bus.door.path
    files = [*(() if path is None else (Path(path),)), *_files(mesh.settings)]
    return list({file.parent.stat().st_dev: file.parent for file in reversed(files)}.values())


def _durability(mesh: Mesh) -> CheckResult:
    capabilities = mesh.bus.capabilities
    power = capabilities[Capability.POWER_SAFE].value
    crash = "yes" if Capability.DURABLE in capabilities else "no"
    return CheckResult(
        "durability",
        warn_if(power != "full"),
        f"{mesh.bus.door.name}: survives a crash: {crash}; a power cut: {power}",
    )


async def _round_trip(mesh: Mesh) -> CheckResult:
    bus, topic = mesh.bus, f"{_TOPIC}{uuid4().hex[:12]}"
    left = ""
    try:
        await bus.door.create_topic(topic, TopicConfig(partitions=1))
        bus.admit_own_topic(topic)
        arrived = asyncio.Event()

        async def handle(event: Event) -> None:
            arrived.set()

        subscription = await bus.subscribe(topic, handle, alone=True)
        try:
            began = time.perf_counter()
            await bus.publish(topic, Event("system.event", None, {"from": "doctor"}))
            acknowledged = time.perf_counter() - began
            await arrived.wait()
            handled = time.perf_counter() - began
        finally:
            # Before the topic is deleted: a client that still reads a topic can make a broker create it again.
            await bus.unsubscribe(subscription)
    finally:
        left = await _remove(mesh, topic)
    return CheckResult(
        "round trip",
        warn_if(bool(left)),
        f"acknowledged after {acknowledged * 1000:.1f} ms, handled after {handled * 1000:.1f} ms{left and '; '}{left}",
        f"delete the topic {topic}" if left else "",
    )


async def _remove(mesh: Mesh, topic: str) -> str:
    """Delete a topic of this check; return the reason for which it is left."""
    with contextlib.suppress(TopicNotFoundError):
        try:
            await mesh.bus.door.delete_topic(topic)
        except DimeshError as error:
            return f"the topic cannot be removed: {error}"
    return ""


async def _groups(mesh: Mesh) -> CheckResult:
    partitions = await list_partitions(mesh.bus)
    behind = sorted((p for p in partitions if p.lag and p.member is None), key=lambda p: -(p.lag or 0))
    stopped = await list_stopped(mesh.bus)
    problems = [f"{s.group} of {s.topic}: {s.state} since {s.since}, {s.reason}" for s in stopped[:3]]
    problems += [f"{p.group} of {p.topic}: {p.lag} behind and no member" for p in behind[:3]]
    detail = "; ".join(problems)
    count = len({(p.topic, p.group) for p in partitions})
    return CheckResult("groups", warn_if(bool(problems)), detail or f"{count} groups, none left behind")


async def _sources(mesh: Mesh) -> CheckResult:
    try:
        found = await capture_progress(mesh)
    except DimeshError as error:
        return CheckResult("sources", Outcome.FAILED, str(error))
    failing = [one for one in found if one.error]
    problems = [f"{one.object} of {one.source}: since {one.since}, {one.error}" for one in failing[:3]]
    detail = "; ".join(problems) or f"{len(found)} objects, none failing"
    for state in ("not running", "stale", "not in the settings"):
        sources = {one.source for one in found if one.state == state}
        if sources:
            detail += f"; {state}: {', '.join(sorted(sources))}"
    stale = any(one.state == "stale" for one in found)
    return CheckResult("sources", Outcome.FAILED if failing else warn_if(stale), detail)


async def _dead_letters(mesh: Mesh) -> CheckResult:
    count = len(await DeadLetters(mesh.bus).entries())
    detail = f"{count} open: see 'dimesh dlq list'" if count else "none"
    return CheckResult("dead letters", warn_if(bool(count)), detail)


def _outcome(ok: bool | None) -> Outcome:
    return Outcome.WARNING if ok is None else (Outcome.OK if ok else Outcome.FAILED)
