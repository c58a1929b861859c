"""``dimesh cdc``: the change sources of the settings."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from dimesh.cli.context import run, state_of
from dimesh.cli.exit_codes import ExitCode
from dimesh.errors import (
    CDCError,
    CodecError,
    ConfigurationError,
    DimeshError,
    PayloadError,
    TopicNotFoundError,
)

if TYPE_CHECKING:
    from dimesh.cdc.state import ProgressLog
    from dimesh.cdc.store import SqliteCDCStore
    from dimesh.cli.context import State
    from dimesh.mesh import Mesh
    from dimesh.settings import SourceSection

cdc = typer.Typer(
    help="Look at the change sources of the settings, and have them read again.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Source = Annotated[str, typer.Argument(help="The source.")]
Object = Annotated[str, typer.Argument(help="The object.")]
Name = Annotated[str | None, typer.Argument(help="Only the source of this name; by default all.")]


def _sections(mesh: Mesh, name: str | None) -> list[SourceSection]:
    """The sources that are asked for.

    Raises:
        ConfigurationError: there is none of that name, or none at all.
    """
    sources = mesh.settings.sources
    found = [section for section in sources if name is None or section.name == name]
    if not found:
        have = ", ".join(section.name for section in sources) or "none; add [[sources]]"
        raise ConfigurationError(
            f"no source {name!r} in the settings; there are: {have}" if name else f"sources: {have}"
        )
    return found


@cdc.command("check")
def check(context: typer.Context, name: Name = None) -> None:
    """Ask each source what can be captured, and name what stands in the way."""
    code = run(_check(state_of(context), name))
    raise typer.Exit(code)


async def _check(state: State, name: str | None) -> ExitCode:
    mesh = state.mesh()
    rows: list[tuple[str, str, str, str]] = []
    ok = True
    for section in _sections(mesh, name):
        source = mesh.plugins.cdc_source(section.driver, section.options, mesh.clock)
        try:
            await source.open()
            result = await source.check()
        except DimeshError as error:
            rows.append((section.name, "", "failed", str(error)))
            ok = False
            continue
        finally:
            await source.close()
        rows += [(section.name, "", "problem", problem) for problem in result.problems]
        for one in section.objects:
            reason = result.objects.get(one)
            good = reason == ""
            rows.append(
                (
                    section.name,
                    one,
                    "ok" if good else "failed",
                    reason if reason is not None else "there is no such object",
                )
            )
            ok = ok and good
        ok = ok and result.ok
    state.output.table(("source", "object", "state", "reason"), rows, "nothing to check")
    return ExitCode.OK if ok else ExitCode.FAILED


@cdc.command("status")
def status(context: typer.Context, name: Name = None) -> None:
    """Show how far each object is, as stored: also while nothing runs."""
    run(_status(state_of(context), name))


async def _status(state: State, name: str | None) -> None:
    from dimesh.cdc.state import progress_key

    rows: list[tuple[Any, ...]] = []
    async with state.opened() as mesh, _store(mesh) as store:
        log = _progress_log(mesh)
        for section in _sections(mesh, name):
            paused = await store.paused(section.name) if Path(store.path).exists() else frozenset()
            for one in section.objects:
                progress = await log.load(progress_key(section.name, one))
                waits = " (paused)" if paused & {"", one} else ""
                if progress is None:
                    rows.append((section.name, one, f"not begun{waits}", 0, 0, ""))
                else:
                    position = (progress.resume or progress.position).decode("utf-8", "backslashreplace")
                    phase = f"repair: {progress.repair}" if progress.repair else progress.phase
                    phase += f", to be repaired: {progress.owed}" if progress.owed else ""
                    rows.append(
                        (section.name, one, phase + waits, progress.rows, progress.generation, position[:60])
                    )
    state.output.table(("source", "object", "phase", "rows", "repairs", "position"), rows, "no sources")


def _progress_log(mesh: Mesh) -> ProgressLog:
    from dimesh.capabilities import Capability
    from dimesh.cdc.state import ProgressLog

    atomic = Capability.ATOMIC_STATE in mesh.bus.capabilities
    return ProgressLog(mesh.bus, None if atomic else mesh.cdc_store)


@asynccontextmanager
async def _store(mesh: Mesh) -> AsyncIterator[SqliteCDCStore]:
    from dimesh.cdc.store import SqliteCDCStore

    store = SqliteCDCStore(mesh.settings.cdc.state)
    try:
        yield store
    finally:
        await store.close()


@cdc.command("run")
def run_(
    context: typer.Context,
    sources: Annotated[list[str] | None, typer.Argument(help="Only these sources; by default all.")] = None,
    objects: Annotated[
        list[str] | None, typer.Option("--object", help="Only this object; may be repeated.")
    ] = None,
) -> None:
    """Capture in the foreground until stopped, without the handlers. A status line on a terminal, JSON lines elsewhere."""
    run(_run(state_of(context), sources or [], objects or []))


async def _run(state: State, names: Sequence[str], objects: Sequence[str]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: KeyboardInterrupt does it
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with state.opened() as mesh:
        chosen = [section for name in (names or (None,)) for section in _sections(mesh, name)]
        wanted = {
            section.name: [one for one in section.objects if not objects or one in objects]
            for section in chosen
        }
        for one in objects:
            if not any(one in found for found in wanted.values()):
                raise ConfigurationError(f"no source that is to run captures {one!r}")
        for section in chosen:
            if wanted[section.name]:
                await mesh.connector(section).start(wanted[section.name], keep_trying=True)
        with _Status(state) as status:
            while not stop.is_set():
                status.show(mesh.cdc.get_status())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await stop.wait()
        state.output.note("stopping")


class _Status:
    """One line that is kept up to date on a terminal; a JSON line whenever something changed elsewhere."""

    def __init__(self, state: State) -> None:
        self._output = state.output
        self._line: Any = None
        self._last: Any = None

    def __enter__(self) -> Self:
        if self._output.interactive:
            self._line = self._output.console(error=True).status("starting")
            self._line.start()
        return self

    def show(self, found: dict[str, dict[str, Any]]) -> None:
        objects = [(name, one, at) for name, said in found.items() for one, at in said["objects"].items()]
        if self._line is not None:
            from rich.text import Text

            parts = [f"{name}/{one}: {_in_words(at)}" for name, one, at in objects]
            self._line.update(Text("  ".join(parts)))
        elif objects != self._last and not self._output.quiet:
            self._last = objects
            self._output.line({"sources": found})

    def __exit__(self, *_: object) -> None:
        if self._line is not None:
            self._line.stop()


def _in_words(at: dict[str, Any]) -> str:
    if at["phase"] == "snapshot":
        total = at["snapshot_total"]
        eta = at["snapshot_eta"]
        return (
            f"snapshot, {at['snapshot_rows']:,}"
            + (f" of about {total:,} rows" if total else " rows")
            + (f", {eta:,.0f} s left" if eta is not None else "")
        )
    error = f", {at['errors']} errors" if at["errors"] else ""
    owed = ", a gap waits for its repair" if at["repair_owed"] else ""
    return f"{at['phase']}, {at['changes']:,} changes{error}{owed}"


@cdc.command("snapshot")
def snapshot(context: typer.Context, name: Source, object: Object) -> None:
    """Read all rows of an object again, now; the stream goes on from where it is. Stop 'dimesh run' first."""
    raise typer.Exit(run(_snapshot(state_of(context), name, object)))


async def _snapshot(state: State, name: str, object: str) -> ExitCode:
    from dimesh.cli.progress import Progress

    async with state.opened() as mesh:
        section = _capturing(mesh, name, object)
        connector = mesh.connector(section)
        await connector.resnapshot(object)
        with Progress(state.output, f"snapshot of {object}", None, "rows") as bar:
            await connector.start([object])
            while True:
                at = connector.get_status()["objects"][object]
                if at["phase"] == "paused":
                    raise CDCError(f"{object} of {name} is paused: 'dimesh cdc resume' it first")
                bar.of(at["snapshot_total"])
                bar.at(at["snapshot_rows"], at["snapshot_rows"])
                if at["phase"] in ("stream", "failed"):
                    break
                await asyncio.sleep(0.05)
        if at["phase"] == "failed":
            raise CDCError(at["last_error"])
    if state.output.as_json:
        state.output.document({"source": name, "object": object, "rows": at["snapshot_rows"]})
    state.output.say(f"{at['snapshot_rows']:,} rows of {object} were read")
    return ExitCode.OK


def _capturing(mesh: Mesh, name: str, object: str | None) -> SourceSection:
    (section,) = _sections(mesh, name)
    if object is not None and object not in section.objects:
        raise CDCError(f"{name} does not capture {object!r}; it captures {', '.join(section.objects)}")
    return section


@cdc.command("pause")
def pause(
    context: typer.Context,
    name: Source,
    object: Annotated[str | None, typer.Argument(help="Only this object.")] = None,
) -> None:
    """Have a source stop after what it is publishing, also in a running 'dimesh run', within a second; until 'resume'."""
    run(_pause(state_of(context), name, object, True))


@cdc.command("resume")
def resume(
    context: typer.Context,
    name: Source,
    object: Annotated[str | None, typer.Argument(help="Only this object.")] = None,
) -> None:
    """Have a paused source go on where it is."""
    run(_pause(state_of(context), name, object, False))


async def _pause(state: State, name: str, object: str | None, on: bool) -> None:
    mesh = state.mesh()
    _capturing(mesh, name, object)
    async with _store(mesh) as store:
        if on:
            await store.pause(name, object)
        else:
            await store.resume(name, object)
            if object is not None and "" in await store.paused(name):
                raise CDCError(f"all of {name} is paused: resume it without naming an object")
    what = f"{object} of {name}" if object else name
    state.output.note(f"{what} {'pauses' if on else 'goes on'}")


@cdc.command("history")
def history(context: typer.Context, name: Name = None) -> None:
    """List the gaps that were found and what became of them, oldest first."""
    run(_history(state_of(context), name))


async def _history(state: State, name: str | None) -> None:
    from dimesh.cdc.events import GAP_TYPE, REPAIRED_TYPE
    from dimesh.cli.commands.tail import records

    rows: list[tuple[Any, ...]] = []
    async with state.opened() as mesh:
        topics: set[str] = set()
        names = {section.name for section in _sections(mesh, name)}
        for section in _sections(mesh, name):
            source = mesh.plugins.cdc_source(section.driver, section.options, mesh.clock)
            topics.add(f"cdc.{source.system}")
        for topic in sorted(topics):
            try:
                async for delivery in records(mesh.bus, topic, None, False):
                    if delivery.record.event_type not in (GAP_TYPE, REPAIRED_TYPE):
                        continue
                    event = delivery.record.event
                    payload = event.payload
                    if payload["connector_id"] in names:
                        deleted = payload.get("deleted")
                        kind = "gap" if event.event_type.value == GAP_TYPE else "repaired"
                        rows.append(
                            (event.metadata.timestamp.isoformat()[:19], payload["connector_id"], payload["object"], kind,
                             (payload.get("since") or "")[:19], (payload.get("until") or "")[:19], payload.get("rows"), deleted,
                             payload["cause"])
                        )  # fmt: skip
            except TopicNotFoundError:
                continue
            except (CodecError, PayloadError, KeyError):
                continue
    state.output.table(
        ("time", "source", "object", "what", "since", "until", "rows", "deleted", "cause"),
        rows,
        "no gaps: nothing was missed",
    )


@cdc.command("reset")
def reset(
    context: typer.Context,
    name: Source,
    object: Object,
) -> None:
    """Forget how far an object is: the next start reads all of it again. Stop 'dimesh run' first."""
    run(_reset(state_of(context), name, object))


async def _reset(state: State, name: str, object: str) -> None:
    async with state.opened() as mesh:
        await mesh.connector(_capturing(mesh, name, object)).reset(object)
    state.output.note(f"{name} reads all of {object} at its next start")
