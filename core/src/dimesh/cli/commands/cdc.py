"""``dimesh cdc``: the change sources of the settings."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from dimesh.cli.commands.cdc_state import state_commands
from dimesh.cli.context import run, state_of, stop_event
from dimesh.cli.exit_codes import ExitCode
from dimesh.cli.logs import log_to_stderr
from dimesh.cli.serving import announce, served_mesh

if TYPE_CHECKING:
    from dimesh.cli.context import State
    from dimesh.cli.output import Output
    from dimesh.ops.capture import ObjectProgress
    from dimesh.ops.verification import Verified

cdc = typer.Typer(
    help="Inspect and control the change sources of the settings.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
cdc.add_typer(state_commands, name="state")
Source = Annotated[str, typer.Argument(help="The source.")]
Object = Annotated[str, typer.Argument(help="The object.")]
OneObject = Annotated[str | None, typer.Argument(help="Only this object.")]
Name = Annotated[str | None, typer.Argument(help="Only this source; by default all.")]


@cdc.command("check")
def check(context: typer.Context, name: Name = None) -> None:
    """Ask each source which objects it can capture, and name what prevents it."""
    raise typer.Exit(run(_check(state_of(context), name)))


async def _check(state: State, name: str | None) -> ExitCode:
    from dimesh.ops.capture import check_sources

    found = await check_sources(state.mesh(), name)
    state.output.table(
        ("source", "object", "state", "reason"),
        [(o.source, o.object, o.state, o.reason) for o in found.objects],
        "nothing to check",
    )
    return ExitCode.OK if found.ok else ExitCode.FAILED


@cdc.command("status")
def status(context: typer.Context, name: Name = None) -> None:
    """Show the progress of each object, and whether it is captured. Works from any process, and while nothing runs."""
    run(_status(state_of(context), name))


async def _status(state: State, name: str | None) -> None:
    from dimesh.ops.capture import capture_progress

    async with state.opened() as mesh:
        found = await capture_progress(mesh, name)
    if state.output.as_json:
        state.output.document([{**asdict(o), "phase": _phase(o)} for o in found])
        return
    state.output.table(
        ("source", "object", "state", "since", "lag", "rows", "changes", "last change"),
        [
            (
                o.source,
                o.object,
                _state(o),
                _short(o.since),
                _seconds(o.lag),
                o.rows,
                o.changes,
                _short(o.last_change),
            )
            for o in found
        ],
        "no sources",
    )
    counted = [o for o in found if o.reported]
    if counted:
        state.output.table(
            ("source", "object", "gaps", "repairs", "deleted", "missing", "skipped"),
            [
                (o.source, o.object, o.gaps, f"{o.repaired} of {o.repairs}", o.deleted, o.missing, o.skipped)
                for o in counted
            ],
            "",
        )
        state.output.table(
            ("source", "object", "requests", "budget used", "held back", "report"),
            [
                (
                    o.source,
                    o.object,
                    o.requests,
                    None if o.budget_used is None else f"{o.budget_used:.1%}",
                    _seconds(o.held_back),
                    f"{_seconds(o.heartbeat)} ago" if o.heartbeat is not None else _short(o.reported),
                )
                for o in counted
            ],
            "",
        )
    for left in sorted({o.source for o in found if o.state == "not in the settings"}):
        state.output.say(
            f"{left} is not in the settings: if it was renamed, 'dimesh cdc state move {left} NEW'; if it is not needed, "
            f"'dimesh cdc state drop {left}'"
        )
    for waiting in sorted({f"{o.standby} waits to take over {o.source}" for o in found if o.standby}):
        state.output.say(waiting)
    for one in found:
        if one.error:
            state.output.say(f"{one.object} of {one.source}: {one.error}")
        if one.verified is not None:
            state.output.say(f"{one.object} of {one.source}: {_verified(one.verified)}")
        if one.state == "stale":
            state.output.say(
                f"{one.object} of {one.source}: {one.process or 'its process'} has not reported for "
                f"{_seconds(one.heartbeat)}: it hangs, is suspended, or cannot store its state"
            )


def _verified(found: Mapping[str, Any]) -> str:
    kinds, fields = found["kinds"], found["fields"]
    wrong = ", ".join(f"{rows:,} with {kind.replace('_', ' ')}" for kind, rows in kinds.items())
    named = f" ({', '.join(list(fields)[:10])})" if fields else ""
    rest = f"at most {found['upper']:.2%} differ" if not kinds else f"{wrong}{named}"
    return f"{found['rows']:,} rows verified since {_short(found['since'])}: {rest}"


def _state(progress: ObjectProgress) -> str:
    shown = progress.state in ("stale", "not in the settings")
    if shown or (progress.state == "not running" and progress.phase):
        return f"{_phase(progress)}, {progress.state}"
    return _phase(progress)


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:g} s"


def _short(moment: str) -> str:
    """Return a time without the year and the time zone, which is UTC: the table has to fit into 80 columns."""
    return moment[5:19].replace("T", " ")


def _phase(progress: ObjectProgress) -> str:
    phase = f"repair: {progress.repair}" if progress.repair else progress.phase or "not started"
    pending = f", to be repaired: {progress.pending_repair}" if progress.pending_repair else ""
    return f"{phase}{pending}{' (paused)' if progress.paused else ''}"


@cdc.command("run")
def run_(
    context: typer.Context,
    sources: Annotated[list[str] | None, typer.Argument(help="Only these sources; by default all.")] = None,
    objects: Annotated[
        list[str] | None, typer.Option("--object", help="Only this object; may be repeated.")
    ] = None,
) -> None:
    """Capture in the foreground until stopped, without running handlers. Prints a status line on a terminal, JSON lines
    elsewhere. Serves health and metrics where [http] listen is set.
    """
    log_to_stderr(state_of(context))
    run(_run(state_of(context), sources or [], objects or []))


async def _run(state: State, names: Sequence[str], objects: Sequence[str]) -> None:
    from dimesh.ops.capture import start_capture
    from dimesh.systemd import ServiceManager

    stop = stop_event()
    async with ServiceManager() as manager, served_mesh(state) as (mesh, server):
        await mesh.open()
        state.warn_if_alone(mesh)
        await start_capture(mesh, names, objects)
        announce(state, server)
        if server is not None and state.output.as_json:
            state.output.line({"address": server.url})
        manager.ready()
        with StatusLine(state.output) as status:
            while not stop.is_set():
                status.show(mesh.cdc.get_status())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await stop.wait()
        manager.stopping()
        state.output.note("stopping")
        if server is not None:
            await server.stopping()


class StatusLine:
    """A status line that is updated in place on a terminal, or a JSON line after each change elsewhere."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._line: Any = None
        self._last: Any = None

    def __enter__(self) -> Self:
        if self._output.interactive:
            self._line = self._output.console(error=True).status("starting")
            self._line.start()
        return self

    def show(self, status: dict[str, dict[str, Any]]) -> None:
        """Show the status of all sources. Requests alone, which every poll sends, are no news."""
        objects = [
            (name, one, at) for name, source in status.items() for one, at in source["objects"].items()
        ]
        if self._line is not None:
            from rich.text import Text

            self._line.update(Text("  ".join(f"{name}/{one}: {_in_words(at)}" for name, one, at in objects)))
            return
        news = [(name, one, {**at, "requests": 0}) for name, one, at in objects]
        if news != self._last and not self._output.quiet:
            self._last = news
            self._output.line({"sources": status})

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
    if at["error"]:
        return f"{at['phase']} since {at['since']}: {at['error']}"
    errors = f", {at['errors']} errors" if at["errors"] else ""
    pending = ", a gap waits for its repair" if at["pending_repair"] else ""
    return f"{at['phase']}, {at['changes']:,} changes{errors}{pending}"


@cdc.command("snapshot")
def snapshot(context: typer.Context, name: Source, object: Object) -> None:
    """Read all rows of an object again; the stream then continues from its position. Stop 'dimesh run' first."""
    run(_snapshot(state_of(context), name, object))


async def _snapshot(state: State, name: str, object: str) -> None:
    from dimesh.cli.progress import Progress
    from dimesh.ops.capture import resnapshot

    rows = 0
    async with state.opened() as mesh:
        with Progress(state.output, f"snapshot of {object}", None, "rows") as bar:
            async for progress in resnapshot(mesh, name, object):
                rows = progress.rows
                bar.set_total(progress.total)
                bar.at(rows, rows)
    if state.output.as_json:
        state.output.document({"source": name, "object": object, "rows": rows})
    state.output.say(f"{rows:,} rows of {object} were read")


@cdc.command("pause")
def pause(context: typer.Context, name: Source, object: OneObject = None) -> None:
    """Pause a source until 'resume', within a second and after the batch being published, also in a running 'dimesh run'."""
    run(_pause(state_of(context), name, object))


async def _pause(state: State, name: str, object: str | None) -> None:
    from dimesh.ops import capture

    await capture.pause(state.mesh(), name, object)
    state.output.note(f"{_label(name, object)} is paused")


@cdc.command("resume")
def resume(context: typer.Context, name: Source, object: OneObject = None) -> None:
    """Resume a paused source from its position."""
    run(_resume(state_of(context), name, object))


async def _resume(state: State, name: str, object: str | None) -> None:
    from dimesh.ops import capture

    await capture.resume(state.mesh(), name, object)
    state.output.note(f"{_label(name, object)} is resumed")


def _label(name: str, object: str | None) -> str:
    return f"{object} of {name}" if object else name


@cdc.command("history")
def history(context: typer.Context, name: Name = None) -> None:
    """List the gaps that were found and their repairs, oldest first."""
    run(_history(state_of(context), name))


async def _history(state: State, name: str | None) -> None:
    from dimesh.ops.capture import gap_history

    async with state.opened() as mesh:
        found = await gap_history(mesh, name)
    state.output.table(
        ("time", "source", "object", "what", "since", "until", "rows", "deleted", "cause"),
        [(g.time, g.source, g.object, g.kind, g.since, g.until, g.rows, g.deleted, g.cause) for g in found],
        "no gaps: nothing was missed",
    )


@cdc.command("verify")
def verify(
    context: typer.Context,
    name: Name = None,
    object: Annotated[str | None, typer.Option("--object", help="Only this object.")] = None,
    sample: Annotated[
        int, typer.Option(min=1, help="The number of rows of each object to read from each side.")
    ] = 500,
    everything: Annotated[bool, typer.Option("--all", help="Compare all rows.")] = False,
    report: Annotated[
        str | None,
        typer.Option(
            help="Also write a report to this file that can be shared: without values, keys and names of sources."
        ),
    ] = None,
) -> None:
    """Compare rows at the sources with what was published. A difference counts once the stream had time to deliver the change.
    Works beside a running 'dimesh run'; what nothing captures is captured meanwhile. Ends with code 1 if rows differ.
    """
    raise typer.Exit(run(_verify(state_of(context), name, object, None if everything else sample, report)))


async def _verify(
    state: State, name: str | None, object: str | None, sample: int | None, report: str | None
) -> ExitCode:
    import json
    from pathlib import Path

    from dimesh.cli.progress import Progress
    from dimesh.ops.verification import Verified, shareable, verify

    found: list[Verified] = []
    async with state.opened() as mesh:
        with Progress(state.output, "verification", None, "rows") as bar:
            async for step in verify(mesh, name, object, sample):
                if isinstance(step, Verified):
                    found.append(step)
                else:
                    bar.set_total(step.total)
                    bar.at(step.done, step.done)
    if report is not None:
        Path(report).write_text(json.dumps(shareable(found), indent=2) + "\n")
    if state.output.as_json:
        state.output.document([one.document() for one in found])
    else:
        _show_verified(state, found)
    return ExitCode.FAILED if any(one.obstacle or one.tally.differing for one in found) else ExitCode.OK


def _show_verified(state: State, found: Sequence[Verified]) -> None:
    from collections import Counter
    from itertools import islice

    output = state.output
    output.table(
        ("source", "object", "rows", "differ", "at most", "not compared", "requests"),
        [
            (
                one.source,
                one.object,
                one.tally.rows,
                one.tally.differing,
                "" if one.everything or one.obstacle else f"{one.tally.bounds[1]:.2%}",
                one.tally.incomparable.total(),
                one.tally.requests,
            )
            for one in found
        ],
        "no sources",
    )
    for one in found:
        label = f"{one.object} of {one.source}"
        if one.obstacle:
            output.say(f"{label} was not verified: {one.obstacle}")
        for kind, rows in one.tally.kinds.most_common():
            fields = Counter(
                f for error in one.tally.wrong.values() if error.kind.value == kind for f in error.fields
            )
            named = f" ({', '.join(field for field, _ in fields.most_common(10))})" if fields else ""
            output.say(f"{label}: {rows} with {kind.replace('_', ' ')}{named}")
        for error in islice(one.tally.wrong.values(), 10):
            output.say(f"  {error.kind.value}: {error.key.rpartition(chr(10))[2]}")
        for reason, rows in one.tally.incomparable.most_common():
            output.note(f"{label}: {rows} rows not compared: {reason}")
        for field, _ in one.tally.skipped.most_common():
            output.note(
                f"{label}: field {field} not compared: what was published of it may be out of date or cut"
            )
    for text in dict.fromkeys(text for one in found if not one.obstacle for text in one.blind_spots):
        output.note(f"not seen: {text}")


@cdc.command("reset")
def reset(context: typer.Context, name: Source, object: Object) -> None:
    """Forget the progress of an object: the next start reads all of it again. Stop 'dimesh run' first."""
    run(_reset(state_of(context), name, object))


async def _reset(state: State, name: str, object: str) -> None:
    from dimesh.ops import capture

    async with state.opened() as mesh:
        await capture.reset(mesh, name, object)
    state.output.note(f"{name} reads all of {object} at its next start")
