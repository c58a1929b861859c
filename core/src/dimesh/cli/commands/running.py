"""``dimesh run`` and ``dimesh doctor``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dimesh.cli.context import run as run_async
from dimesh.cli.context import state_of
from dimesh.cli.exit_codes import ExitCode
from dimesh.errors import DimeshError

if TYPE_CHECKING:
    from dimesh.cli.context import State


def run(context: typer.Context) -> None:
    """Start the mesh of dimesh.toml: its handlers and sources. Ends gracefully on SIGINT or SIGTERM: what is being
    handled is finished, positions are committed.
    """
    state = state_of(context)
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # handlers are most often beside dimesh.toml
    logging.basicConfig(
        level=logging.DEBUG if state.debug else logging.INFO,
        format='{"time":"%(asctime)s","level":"%(levelname)s","logger":"%(name)s","message":"%(message)s"}'
        if state.output.as_json
        else "%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    raise typer.Exit(run_async(_run(state)))


async def _run(state: State) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: KeyboardInterrupt does it
            loop.add_signal_handler(number, stop.set)
    mesh = state.mesh()
    try:
        started = await mesh.start()
        for line in started:
            state.output.note(f"started {line}")
        state.output.note("running; end with Ctrl-C or SIGTERM")
        if state.output.as_json:
            state.output.line({"started": started})
        await stop.wait()
        state.output.note("stopping: finishing what is being handled")
    finally:
        await mesh.close()
    return ExitCode.OK


def doctor(context: typer.Context) -> None:
    """Prove by doing that this mesh works: settings, plugins, storage, a round trip, lag, dead letters."""
    state = state_of(context)
    raise typer.Exit(run_async(_doctor(state)))


async def _doctor(state: State) -> int:
    rows: list[tuple[str, str, str]] = []
    failed = False
    async for check, ok, text in _checks(state):
        rows.append((check, "ok" if ok else ("warning" if ok is None else "failed"), text))
        failed = failed or ok is False
    state.output.table(("check", "result", "detail"), rows, "nothing to check")
    return ExitCode.FAILED if failed else ExitCode.OK


async def _checks(state: State) -> AsyncIterator[tuple[str, bool | None, str]]:
    """Check, True / None (worth a look) / False, and what was found."""
    try:
        loaded = state.loaded
    except DimeshError as error:
        yield "settings", False, str(error)
        return
    yield "settings", True, str(loaded.path or "defaults and environment")
    settings = loaded.settings
    try:
        mesh = state.mesh()
    except DimeshError as error:
        yield "plugins", False, str(error)
        return
    bad = [row for row in mesh.plugins.rows() if row.state in ("failed", "conflict")]
    yield (
        "plugins",
        None if bad else True,
        "; ".join(f"{r.kind} {r.name}: {r.reason}" for r in bad) or "none failed",
    )
    for section in settings.handlers:
        from dimesh.mesh import import_handler

        sys.path.insert(0, os.getcwd())
        try:
            import_handler(section.call)
        except DimeshError as error:
            yield "handler", False, str(error)
    try:
        await mesh.open()
    except DimeshError as error:
        yield "bus", False, str(error)
        await mesh.close()
        return
    try:
        async for found in _bus_checks(mesh, settings):
            yield found
    finally:
        await mesh.close()


async def _bus_checks(mesh: Any, settings: Any) -> AsyncIterator[tuple[str, bool | None, str]]:
    from dimesh.bus.redrive import DeadLetters
    from dimesh.capabilities import Capability
    from dimesh.events import Event
    from dimesh.spi.bus import SelfCheck, TopicConfig

    backend = mesh.bus.backend
    power = backend.capabilities[Capability.POWER_SAFE]
    durable = Capability.DURABLE in backend.capabilities
    yield (
        "durability",
        True if power.value == "full" else None,
        f"{backend.name}: survives a crash: {'yes' if durable else 'no'}; a power cut: {power.value}",
    )
    topic = f"dimesh.doctor.{os.getpid()}"
    try:
        await backend.create_topic(topic, TopicConfig(partitions=1))
        arrived = asyncio.Event()

        async def handle(event: Event) -> None:
            arrived.set()

        await mesh.bus.subscribe(topic, handle, alone=True)
        began = time.perf_counter()
        await mesh.bus.publish(topic, Event("system.event", None, {"from": "doctor"}))
        taken = time.perf_counter()
        async with asyncio.timeout(10):
            await arrived.wait()
        done = time.perf_counter()
        yield (
            "round trip",
            True,
            f"acknowledged after {(taken - began) * 1000:.1f} ms, handled after {(done - began) * 1000:.1f} ms",
        )
    except (DimeshError, TimeoutError) as error:
        yield "round trip", False, f"{type(error).__name__}: {error}"
    finally:
        with contextlib.suppress(DimeshError):
            await backend.delete_topic(topic)
    if isinstance(backend, SelfCheck):
        async for finding in backend.check():
            yield finding
    path = getattr(backend, "path", None)
    if path is not None:
        folder = Path(path).parent
        free = shutil.disk_usage(folder).free
        yield "disk", free > 1 << 30 or None, f"{free / (1 << 30):.1f} GiB free in {folder}"
        try:
            with tempfile.NamedTemporaryFile(dir=folder):
                yield "folder", True, f"{folder} can be written"
        except OSError as error:
            yield "folder", False, f"{folder} cannot be written: {error.strerror}"
    groups = await backend.groups()
    slow = sorted((g for g in groups if g.lag and g.member is None), key=lambda g: -(g.lag or 0))
    yield (
        "groups",
        None if slow else True,
        "; ".join(f"{g.group} of {g.topic}: {g.lag} behind and no member" for g in slow[:3])
        or f"{len({(g.topic, g.group) for g in groups})} groups, none left behind",
    )
    entries = await DeadLetters(mesh.bus).entries()
    yield (
        "dead letters",
        None if entries else True,
        f"{len(entries)} open: see 'dimesh dlq list'" if entries else "none",
    )
    year = time.gmtime().tm_year
    yield "clock", 2024 <= year < 2100, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
