"""``dimesh doctor``: the health of the mesh."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from dimesh.cli.context import import_from_working_folder, run, state_of
from dimesh.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from dimesh.cli.context import State
    from dimesh.ops.results import CheckResult

_NAME = 20
_OUTCOME = 9


def doctor(context: typer.Context) -> None:
    """Check that this mesh works, by using it: settings, handlers, sources, files, disk, broker, a round trip, lag, dead letters.
    It removes what it makes, and exits with code 1 if a check fails.
    """
    import_from_working_folder()
    raise typer.Exit(run(_doctor(state_of(context))))


async def _doctor(state: State) -> int:
    from dimesh.ops.health import diagnose
    from dimesh.ops.results import Outcome

    results: list[CheckResult] = []
    async for result in diagnose(lambda: state.loaded):
        results.append(result)
        state.output.say(*_lines(result))  # at once: the next check may take a while
        sys.stdout.flush()
    if state.output.as_json:
        state.output.document(
            [
                {"check": r.check, "result": r.outcome.value, "detail": r.detail, "advice": r.advice}
                for r in results
            ]
        )
    counts = [f"{sum(r.outcome is outcome for r in results)} {outcome.value}" for outcome in Outcome]
    state.output.say("", ", ".join(counts))
    failed = any(result.outcome is Outcome.FAILED for result in results)
    return ExitCode.FAILED if failed else ExitCode.OK


def _lines(result: CheckResult) -> list[str]:
    """Return a result as lines that fit the terminal; in a pipe, as one line, and a second one with what to do."""
    head = f"{result.check:<{_NAME}} {result.outcome.value:<{_OUTCOME}}"
    indent = " " * (_NAME + _OUTCOME + 1)
    advice = [f"-> {result.advice}"] if result.advice else []
    if not sys.stdout.isatty():
        return [f"{head} {result.detail}".rstrip(), *(f"{indent} {text}" for text in advice)]
    import shutil
    import textwrap

    columns = shutil.get_terminal_size().columns
    width = max(columns - len(indent) - 1, 20)
    names = []
    if len(result.check) > _NAME:  # such as the path of a handler
        names = textwrap.wrap(result.check, max(columns, 20))
        head = f"{'':<{_NAME}} {result.outcome.value:<{_OUTCOME}}"
    texts = [line for text in (result.detail, *advice) for line in textwrap.wrap(text, width) or [""]]
    return [*names, *(f"{head if n == 0 else indent} {text}".rstrip() for n, text in enumerate(texts))]
