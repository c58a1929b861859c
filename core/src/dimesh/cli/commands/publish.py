"""``dimesh publish``: publishing events from a file or standard input."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from dimesh.cli.completion import topic_names
from dimesh.cli.context import run, state_of
from dimesh.cli.exit_codes import ExitCode
from dimesh.errors import ConfigurationError, EventError, SchemaValidationError
from dimesh.events.names import show
from dimesh.printable import printable

if TYPE_CHECKING:
    from dimesh.cli.context import State
    from dimesh.cli.output import Output
    from dimesh.events import Event
    from dimesh.spi.receipt import Receipt

MAX_LINE = 64 * 1024 * 1024
DEFAULT_TYPE = "custom"
"""The type of an event that is given by its payload alone."""


@dataclass(frozen=True, slots=True)
class Source:
    """The texts that events are read from."""

    lines: Iterator[tuple[int, bytes, int]]
    """The number of each text, the text, and the number of bytes read so far."""
    size: int | None
    """The number of bytes in all; None if it is not known."""
    unit: str
    """The word for a text in messages."""


def publish(
    context: typer.Context,
    topic: Annotated[
        str, typer.Argument(help="The topic; created if it does not exist.", autocompletion=topic_names)
    ],
    file: Annotated[
        str | None,
        typer.Argument(
            help="A file with one JSON object per line; - for standard input, which is the default."
        ),
    ] = None,
    payload: Annotated[
        list[str] | None,
        typer.Option(
            "--payload",
            "-p",
            metavar="JSON",
            help="Publish an event with this payload instead of reading a file; may be repeated.",
        ),
    ] = None,
    type: Annotated[
        str | None,
        typer.Option(
            help="Read each line as the payload of an event of this type, not as a whole event. With --payload, the type is "
            f"{DEFAULT_TYPE} by default."
        ),
    ] = None,
    pillar: Annotated[str, typer.Option(help="The pillar of the sender, with --type.")] = "",
    agent: Annotated[str, typer.Option(help="The name of the sender, with --type.")] = "dimesh-cli",
    key: Annotated[
        str | None, typer.Option(help="The ordering key of all events; by default the sender.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="The number of events published together.")] = 500,
    delay: Annotated[
        float | None, typer.Option(min=0, help="Seconds before the events are delivered.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every line and publish nothing.")] = False,
) -> None:
    """Publish events from a file, standard input or --payload. Each line is one JSON object: an event as
    'dimesh --output json tail' prints it, or a payload with --type.

    A line that cannot be published is reported and skipped; the command then exits with code 6.
    """
    state = state_of(context)
    if payload and file is not None:
        raise ConfigurationError("give either a file or --payload")
    named = DEFAULT_TYPE if payload and type is None else type
    with _given(payload) if payload else _opened(file or "-", state.output) as source:
        done = run(_publish(state, topic, source, named, pillar, agent, key, batch, delay, dry_run))
    raise typer.Exit(done)


async def _publish(
    state: State,
    topic: str,
    source: Source,
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
    with Progress(out, f"publish to {topic}", source.size) as progress:
        async with state.opened() as mesh:

            def put(receipts: Sequence[Receipt], sent: list[tuple[int, Event]]) -> int:
                good = 0
                for receipt, (number, _) in zip(receipts, sent, strict=True):
                    if receipt.topic == topic:
                        good += 1
                    else:
                        out.note(f"{source.unit} {number}: dead-lettered, see 'dimesh dlq list {topic}'")
                return good

            async def send(waiting: list[tuple[int, Event]]) -> tuple[int, int]:
                if dry_run:
                    return len(waiting), 0
                if delay is None:
                    with contextlib.suppress(SchemaValidationError):  # one of them; found out below
                        receipts = await mesh.bus.publish_many(topic, [e for _, e in waiting], key=key)
                        good = put(receipts, waiting)
                        return good, len(waiting) - good
                good = 0
                for number, event in waiting:
                    try:
                        receipt = await mesh.bus.publish(topic, event, key=key, delay=delay)
                        good += put((receipt,), [(number, event)])
                    except SchemaValidationError as error:
                        report_line(out, number, error, source.unit)
                return good, len(waiting) - good

            waiting: list[tuple[int, Event]] = []
            for number, line, read in source.lines:
                try:
                    waiting.append((number, _event(line, type_, pillar, agent)))
                except EventError as error:
                    refused += 1
                    report_line(out, number, error, source.unit)
                if len(waiting) >= batch:
                    good, bad = await send(waiting)
                    done, refused, waiting = done + good, refused + bad, []
                progress.at(read, done)
            if waiting:
                good, bad = await send(waiting)
                done, refused = done + good, refused + bad
            warned = mesh.bus.schema_counts.get((topic, "publish", "warned"), 0)
    if warned:
        out.note(f"{warned} published although their check failed; --log-level warning shows why")
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


def report_line(out: Output, number: int, error: Exception, unit: str = "line") -> None:
    """Report a line that cannot be published."""
    if out.as_json:
        import json

        sys.stderr.write(json.dumps({unit: number, "error": str(error)}) + "\n")
    else:
        sys.stderr.write(f"{unit} {number}: {printable(str(error))}\n")


@contextlib.contextmanager
def _given(payloads: Sequence[str]) -> Iterator[Source]:
    """Use the payloads of the command line."""
    # An argument that is not UTF-8 is refused as such when it is read as JSON.
    texts = [text.encode("utf-8", "surrogateescape") for text in payloads]
    yield Source(((number, text, 0) for number, text in enumerate(texts, 1)), None, "payload")


@contextlib.contextmanager
def _opened(file: str, out: Output) -> Iterator[Source]:
    """Open a file, or use standard input."""
    if file == "-":
        if sys.stdin.isatty():
            out.note(
                "reading events from the terminal, one JSON object in a line, until Ctrl-D; --help names other ways"
            )
        yield Source(_lines(sys.stdin.buffer), None, "line")
        return
    if "\0" in file:
        raise ConfigurationError("the file name contains a NUL character")
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(Path(file).open("rb"))
        except OSError as error:
            if file.lstrip()[:1] in {"{", "["}:
                raise ConfigurationError(
                    f"there is no file {show(file)}: to publish it as a payload, put --payload before it"
                ) from error
            raise ConfigurationError(f"{file[:200]} cannot be read: {error.strerror}") from error
        yield Source(_lines(opened), Path(file).stat().st_size, "line")


def _lines(source: IO[bytes]) -> Iterator[tuple[int, bytes, int]]:
    number = read = 0
    while line := source.readline(MAX_LINE + 1):
        number += 1
        read += len(line)
        if len(line) > MAX_LINE:
            raise ConfigurationError(
                f"line {number} is longer than {MAX_LINE:,} bytes: the file must have one JSON object per line"
            )
        if line.strip():
            yield number, line, read


def _event(line: bytes, type_: str | None, pillar: str, agent: str) -> Event:
    from dimesh.bus.door import check_user_headers
    from dimesh.events import Event, EventMetadata, strictjson

    if type_ is None:
        event = Event.from_json(line)
        check_user_headers(event.headers)  # here, so that one line is refused and not the batch that it is in
        return event
    return Event(type_, EventMetadata(source_pillar=pillar, source_agent=agent), strictjson.loads(line))
