"""``dimesh cdc``: the change sources of the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

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
    from dimesh.cli.context import State
    from dimesh.mesh import Mesh
    from dimesh.settings import SourceSection

cdc = typer.Typer(
    help="Look at the change sources of the settings, and have them read again.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
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
    rows: list[tuple[Any, ...]] = []
    async with state.opened() as mesh:
        log = _progress_log(mesh)
        for section in _sections(mesh, name):
            for one in section.objects:
                progress = await log.load(f"cdc/{section.name}/{one}")
                if progress is None:
                    rows.append((section.name, one, "not begun", 0, 0, ""))
                else:
                    position = (progress.resume or progress.position).decode("utf-8", "backslashreplace")
                    phase = f"repair: {progress.repair}" if progress.repair else progress.phase
                    rows.append((section.name, one, phase, progress.rows, progress.generation, position[:60]))
    state.output.table(("source", "object", "phase", "rows", "repairs", "position"), rows, "no sources")


def _progress_log(mesh: Mesh) -> ProgressLog:
    from dimesh.capabilities import Capability
    from dimesh.cdc.state import ProgressLog

    atomic = Capability.ATOMIC_STATE in mesh.bus.capabilities
    return ProgressLog(mesh.bus, None if atomic else mesh.cdc_store)


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
                             payload.get("rows"), deleted, payload["cause"])
                        )  # fmt: skip
            except TopicNotFoundError:
                continue
            except (CodecError, PayloadError, KeyError):
                continue
    state.output.table(
        ("time", "source", "object", "what", "rows", "deleted", "cause"), rows, "no gaps: nothing was missed"
    )


@cdc.command("reset")
def reset(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The source.")],
    object: Annotated[str, typer.Argument(help="The object.")],
) -> None:
    """Forget how far an object is: the next start reads all of it again. Stop 'dimesh run' first."""
    run(_reset(state_of(context), name, object))


async def _reset(state: State, name: str, object: str) -> None:
    async with state.opened() as mesh:
        (section,) = _sections(mesh, name)
        if object not in section.objects:
            raise CDCError(f"{name} does not capture {object!r}; it captures {', '.join(section.objects)}")
        await _progress_log(mesh).reset(f"cdc/{name}/{object}")
    state.output.note(f"{name} reads all of {object} at its next start")
