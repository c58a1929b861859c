"""``dimesh publish``: events from a file or standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from dimesh.cli.context import run, state_of
from dimesh.cli.exit_codes import ExitCode
from dimesh.errors import ConfigurationError, EventError, SchemaValidationError

if TYPE_CHECKING:
    from dimesh.events import Event

MAX_LINE = 64 * 1024 * 1024


def publish(
    context: typer.Context,
    topic: Annotated[str, typer.Argument(help="The topic; made if it does not exist.")],
    file: Annotated[
        str, typer.Argument(help="A file with one JSON object a line; - for standard input.")
    ] = "-",
    type: Annotated[
        str | None,
        typer.Option(help="Take each line as the payload of an event of this type, not as a whole event."),
    ] = None,
    pillar: Annotated[str, typer.Option(help="Pillar of the sender, with --type.")] = "",
    agent: Annotated[str, typer.Option(help="Name of the sender, with --type.")] = "dimesh-cli",
    key: Annotated[
        str | None, typer.Option(help="Ordering key for all of them; by default the sender.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Events published together.")] = 500,
    delay: Annotated[float | None, typer.Option(min=0, help="Deliver only after so many seconds.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every line, publish nothing.")] = False,
) -> None:
    """Publish events, one JSON object a line: events as 'dimesh --output json tail' prints them, or payloads
    with --type.

    A line that cannot be published is named and skipped; the command then ends with code 6.
    """
    state = state_of(context)
    raise typer.Exit(run(_publish(state, topic, file, type, pillar, agent, key, batch, delay, dry_run)))


async def _publish(
    state: Any,
    topic: str,
    file: str,
    type_: str | None,
    pillar: str,
    agent: str,
    key: str | None,
    batch: int,
    delay: float | None,
    dry_run: bool,
) -> int:
    from dimesh.cli.progress import Progress
    from dimesh.events.names import check_topic

    check_topic(topic)
    out = state.output
    done = refused = 0
    with _open(file) as source:
        size = Path(file).stat().st_size if file != "-" else None
        with Progress(out, f"publish to {topic}", size) as progress:
            async with state.opened() as mesh:

                async def send(waiting: list[tuple[int, Event]]) -> tuple[int, int]:
                    if dry_run:
                        return len(waiting), 0
                    events = [event for _, event in waiting]
                    try:
                        if delay is None:
                            await mesh.bus.publish_many(topic, events, key=key)
                        else:
                            for event in events:
                                await mesh.bus.publish(topic, event, key=key, delay=delay)
                    except SchemaValidationError:
                        good = 0
                        for number, event in waiting:
                            try:
                                await mesh.bus.publish(topic, event, key=key)
                                good += 1
                            except SchemaValidationError as error:
                                complain(out, number, error)
                        return good, len(waiting) - good
                    return len(waiting), 0

                waiting: list[tuple[int, Event]] = []
                for number, line, read in _lines(source):
                    if line.strip():
                        try:
                            waiting.append((number, _event(line, type_, pillar, agent)))
                        except EventError as error:
                            refused += 1
                            complain(out, number, error)
                    if len(waiting) >= batch:
                        good, bad = await send(waiting)
                        done, refused, waiting = done + good, refused + bad, []
                    progress.at(read, done)
                if waiting:
                    good, bad = await send(waiting)
                    done, refused = done + good, refused + bad
    if out.as_json:
        out.document(
            {
                "topic": topic,
                "published": 0 if dry_run else done,
                "valid": done,
                "refused": refused,
                "dry_run": dry_run,
            }
        )
    else:
        out.say(
            f"{'would publish' if dry_run else 'published'} {done} events to {topic}"
            + (f", {refused} refused" if refused else "")
        )
    return ExitCode.PARTIAL if refused else ExitCode.OK


def complain(out: Any, number: int, error: Exception) -> None:
    """Name a line that cannot be published."""
    if out.as_json:
        import json

        sys.stderr.write(json.dumps({"line": number, "error": str(error)}) + "\n")
    else:
        sys.stderr.write(f"line {number}: {error}\n")


def _open(file: str) -> IO[bytes]:
    if file == "-":
        return sys.stdin.buffer
    if "\0" in file:
        raise ConfigurationError("the file's name holds a NUL character")
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise ConfigurationError(f"{file[:200]} cannot be read: {error.strerror}") from error


def _lines(source: IO[bytes]) -> Iterator[tuple[int, bytes, int]]:
    number = read = 0
    while line := source.readline(MAX_LINE + 1):
        number += 1
        read += len(line)
        if len(line) > MAX_LINE:
            raise ConfigurationError(
                f"line {number} is longer than {MAX_LINE:,} bytes: is this one JSON object a line?"
            )
        yield number, line, read


def _event(line: bytes, type_: str | None, pillar: str, agent: str) -> Event:
    from dimesh.events import Event, EventMetadata, strictjson

    if type_ is None:
        return Event.from_json(line)
    return Event(type_, EventMetadata(source_pillar=pillar, source_agent=agent), strictjson.loads(line))
