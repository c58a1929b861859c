"""Command lines and input lines of every kind: a documented exit code, one line with the reason, and no traceback."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import strategies as st

from dimesh.cli.errors import guarded
from dimesh.cli.exit_codes import ExitCode

from .hostile import amounts, hostile_text, mutated, some_events, try_all


class Ended(NamedTuple):
    """The result of a command."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    """Restore everything that a command changes in its process."""
    path, level = list(sys.path), logging.getLogger("dimesh").level
    yield
    sys.path[:] = path
    logging.getLogger("dimesh").setLevel(level)


class Stream(io.BytesIO):
    """An input that stays readable when a command closes it."""

    def close(self) -> None:
        return None


def dimesh(arguments: Sequence[str], given: bytes = b"") -> Ended:
    """Run a command in this process, with the streams of a terminal: UTF-8, strict for output."""
    names = ("stdin", "stdout", "stderr")
    before = [getattr(sys, name) for name in names]
    raw = [Stream(given), Stream(), Stream()]
    for name, stream, errors in zip(names, raw, ("strict", "strict", "backslashreplace"), strict=True):
        setattr(sys, name, io.TextIOWrapper(stream, "utf-8", errors, write_through=True))
    try:
        code = guarded(arguments)
    finally:
        for name, stream in zip(names, before, strict=True):
            getattr(sys, name).detach()
            setattr(sys, name, stream)
    return Ended(code, raw[1].getvalue().decode("utf-8"), raw[2].getvalue().decode("utf-8"))


def is_json(text: str) -> bool:
    """Return whether a text is one JSON document, or one on each line; empty text counts, too."""
    try:
        json.loads(text or "null")
    except ValueError:
        try:
            for line in text.splitlines():
                json.loads(line)
        except ValueError:
            return False
    return True


# -- arguments -------------------------------------------------------------------------------------------

MESHES = ("mesh.db", "other.db", "a\udc80b.db")
arguments_of_a_shell = hostile_text.map(
    # A shell passes bytes without NUL; bytes that are not UTF-8 arrive as U+DC80 to U+DCFF.
    lambda text: os.fsdecode(text.encode("utf-8", "surrogatepass").replace(b"\0", b""))
)
numbers = st.sampled_from(
    (
        "0",
        "1",
        "-1",
        "1.5",
        "nan",
        "inf",
        "1e400",
        "-0",
        "9" * 30,
        "9" * 5_000,
        "0x10",
        "1_000",
        "\u0663",
        " 1",
        "",
    )
)
times = st.sampled_from(
    (
        "earliest", "latest", "15m", "2h", "9" * 30 + "d", "9" * 400 + "ms", "1.5w", "2026-01-01", "0001-01-01", "-1h",
        "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2026-02-30", "0", "17", "9" * 19, "9" * 30, "9" * 5_000,
        "yesterday", "\u0661\u0662m", "10 minutes ago", "an hour ago", "9" * 400 + " weeks ago",
    )
)  # fmt: skip
words = st.sampled_from(
    ("t", "t.dlq", "nope", "orders", "rows.ndjson", "-", ".", "broken", "custom", "high", "g", "all")
)
some_value = words | numbers | times | arguments_of_a_shell

TOPIC = st.sampled_from(("t", "t", "orders", "t.dlq", "nope"))
REST = st.sampled_from(("known-1", "rows.ndjson", "-", ".", "nope"))
NAME = st.sampled_from(("hubspot", "a", "x_1"))
COMMANDS: dict[tuple[str, ...], tuple[tuple[st.SearchStrategy[str], ...], tuple[str, ...]]] = {
    ("publish",): (
        (TOPIC, REST),
        ("--type", "--pillar", "--agent", "--key", "--batch", "--delay", "--dry-run", "--payload"),
    ),
    ("tail",): (
        (TOPIC,),
        (
            "--type",
            "--pillar",
            "--priority",
            "--since",
            "--limit",
            "--newest",
            "--all",
            "--where",
            "--id",
            "--trace",
            "--ids",
        ),
    ),
    ("topics",): ((), ()),
    ("topics", "describe"): ((TOPIC,), ()),
    ("topics", "create"): ((st.sampled_from(("made", "t")),), ("--partitions", "--retention")),
    ("groups",): ((), ("--topic", "--partitions")),
    ("dlq", "list"): ((TOPIC,), ("--all", "--ids")),
    ("dlq", "show"): ((TOPIC, REST), ()),
    ("dlq", "redrive"): ((TOPIC,), ("--id", "--limit", "--force")),
    ("dlq", "discard"): ((TOPIC,), ("--id", "--yes")),
    ("replay",): ((TOPIC,), ("--group", "--to-topic", "--from", "--dry-run")),
    ("plugins",): ((), ()),
    ("config", "show"): ((), ()),
    ("doctor",): ((), ()),
    ("restore",): ((REST,), ()),
    ("new", "plugin"): ((NAME,), ("--kind", "--kind", "--author")),
    ("nonsense",): ((), ("--x", "--help")),
}
FLAGS = ("--dry-run", "--partitions", "--all", "--ids", "--force", "--yes", "--help")
FIT = {
    "--limit": numbers,
    "--newest": numbers,
    "--where": st.sampled_from(
        ("payload=1", "payload.a.0!=x", "metadata.source_pillar=", "headers.a.b=null", "x=1", "=")
    ),
    "--batch": numbers,
    "--delay": numbers,
    "--since": times,
    "--trace": st.sampled_from(("nope", "")),
    "--from": times,
    "--topic": TOPIC,
    "--to-topic": TOPIC | st.just("again"),
    "--group": st.sampled_from(("g", "nope")),
    "--id": st.sampled_from(("known-1", "nope")),
    "--retention": times,
    "--payload": st.sampled_from(('{"order": 7}', "7", "", "{", "NaN")),
    "--type": st.sampled_from(("custom", "UPPER")),
    "--priority": st.sampled_from(("high", "huge")),
    "--kind": st.sampled_from(("bus", "registry", "cdc", "lineage", "hooks")),
}


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """Return a real command with real options, valid enough to pass the parser; one in three values is invalid."""

    def chance(one_in: int) -> bool:
        return bool(draw(st.integers(1, one_in)) == one_in)

    def value(fit: st.SearchStrategy[str]) -> str:
        return draw(some_value if chance(3) else fit)

    command = draw(st.sampled_from(tuple(COMMANDS)))
    if command == ("doctor",) and not chance(4):
        command = ("tail",)  # doctor is slow
    line = list(draw(st.sampled_from(((), ("--quiet",), ("--no-color",), ("-q", "--no-color")))))
    if chance(2):
        form = draw(
            arguments_of_a_shell if chance(12) else st.sampled_from(("json", "json", "json", "human"))
        )
        line += ["--output", form]
    if chance(8):
        # Never a generated path to write to: the tests of names try those through the library.
        bad = st.sampled_from(("rows.ndjson", ".", "", "nul\0", "a\ud800b", "x" * 300))
        line += ["--bus-path", draw(bad if chance(2) else st.sampled_from(MESHES))]
    if chance(8):
        bad = st.sampled_from(("broken.toml", "nope", ".", "", "x" * 10_000))
        line += ["--config", draw(bad if chance(2) else st.just("good.toml"))]
    line += command
    positions, options = COMMANDS[command]
    rest = [[value(fit)] for fit in positions]
    if chance(12):
        rest = rest[1:] if chance(2) else [*rest, [draw(some_value)]]
    chosen = draw(st.lists(st.sampled_from(options), max_size=3, unique=not chance(6))) if options else []
    if command == ("new", "plugin") and "--kind" not in chosen and not chance(6):
        chosen.append("--kind")
    if command == ("replay",) and not chance(6):
        kept = draw(st.sampled_from(("--group", "--to-topic")))
        chosen = [kept, *(option for option in chosen if option not in ("--group", "--to-topic"))]
    if command == ("dlq", "discard") and not chance(4):
        chosen = ["--yes", *(option for option in chosen if option != "--yes")]
    for option in chosen:
        if option in FLAGS:
            rest.append([option])
            continue
        given = value(FIT.get(option, some_value))
        rest.append([option, given] if chance(2) else [f"{option}={given}"])
    for part in rest:
        line += part
    return line


def ends(line: Sequence[str]) -> bool:
    """Return whether the line may be run: it ends, writes only here and leaves the shell's settings unchanged."""
    words = {word.partition("=")[0] for word in line}
    never = {"run", "demo", "--follow", "--debug", "--dir", "--install-completion", "--show-completion"}
    return not (words & never or any(word[:1] == "-" != word[1:2] and "f" in word for word in line))


@pytest.fixture
def prepared(enclosed: Path) -> Path:
    """Prepare a mesh with an event, a dead letter, a damaged record and a group, and files to name."""
    (enclosed / "rows.ndjson").write_text('{"n": 1}\n{"n": 2}\nnot json\n')
    (enclosed / "broken.toml").write_text("[bus\n")
    (enclosed / "good.toml").write_text('[bus.options]\npath = "mesh.db"\n')
    (enclosed / "dimesh.toml").write_text('[bus.options]\npath = "mesh.db"\n')
    right = b'{"event_type": "custom", "payload": 1}\n'
    for topic in ("t", "orders"):
        assert dimesh(["publish", topic], right).code == ExitCode.OK
    make_dead_letters()
    return enclosed


def make_dead_letters() -> None:
    import asyncio

    from dimesh import Event, EventBusFactory, EventMetadata
    from dimesh.spi.bus import Record

    async def make() -> None:
        async def fails(event: Event) -> None:
            event.payload["n"]

        async with EventBusFactory.create("sqlite", path="mesh.db") as bus:
            await bus.subscribe("t", fails, "g")
            await bus.door._backend.append(
                "t", [Record.stored(b"\xff\x00", b"\xed\xa0\x80", "k", "custom", "", "normal")]
            )
            headers = {"dimesh-dlq-offset": "x", "x": b"\xff"}
            metadata = EventMetadata(event_id="known-1", source_pillar="\x1b[2J")
            forged = Event("custom", metadata, {"\x1b[2J": "\u202e"}, headers=headers)
            await bus.door._backend.append("t", [Record.of(forged, "k")])  # as a stranger with the file could
            async with asyncio.timeout(60):
                await bus.idle()

    asyncio.run(make())


@amounts(12, 600)
@pytest.mark.slow
def test_any_command_line_ends_with_a_documented_code(cases: int, prepared: Path) -> None:
    right = b'{"event_type": "custom", "payload": 1}\nnot json\n'
    codes: dict[int, int] = {}

    def check(line: list[str]) -> None:
        ended = dimesh(line, right)
        codes[ended.code] = codes.get(ended.code, 0) + 1
        assert ended.code in tuple(ExitCode)
        assert "Traceback" not in ended.err
        assert "bug in dimesh" not in ended.err
        assert len(ended.err) < 30_000
        if ended.code not in (ExitCode.OK, ExitCode.PARTIAL):
            assert ended.err.strip() or ended.out.strip(), "it failed without a message"
        if "--help" not in line and "--output" in line and line[line.index("--output") + 1] == "json":
            assert is_json(ended.out)
            if ended.code in (ExitCode.USAGE, ExitCode.CONFIGURATION, ExitCode.PLUGIN, ExitCode.UNAVAILABLE):
                said = json.loads(ended.err.splitlines()[-1])
                assert said["error"]
                assert said["code"] == ended.code

    try_all(cases, check, line=command_lines().filter(ends))
    common = {ExitCode.OK, ExitCode.USAGE, ExitCode.CONFIGURATION, ExitCode.NOT_FOUND}
    assert common <= set(codes) if cases > 100 else len(codes) > 2  # a few cases have not every outcome
    # Most lines pass the parser, so that the commands are tried as well.
    assert codes[ExitCode.USAGE] < cases * 0.6
    made = {
        path.name.removesuffix("-wal").removesuffix("-shm").removesuffix("-lock")
        for path in prepared.iterdir()
    }
    files = {"rows.ndjson", "broken.toml", "good.toml", "dimesh.toml", *MESHES}
    # And the result of 'new plugin': a folder here whose name consists of letters.
    assert {name for name in made - files if not re.fullmatch(r"[a-z0-9-]+-dimesh-[a-z0-9-]+", name)} == set()


# -- input lines -----------------------------------------------------------------------------------------

right_lines = some_events.map(lambda event: event.to_json().encode().replace(b"\n", b" "))
input_lines = mutated(right_lines) | right_lines | st.binary(max_size=40)


@amounts(2, 60)
@pytest.mark.slow
def test_every_input_line_is_published_or_reported(cases: int, enclosed: Path) -> None:
    """Each case has forty lines: about 2,400 in slow tests."""
    (enclosed / "dimesh.toml").write_text('[bus.options]\npath = "mesh.db"\n')
    runs = 0

    def check(lines: list[bytes], typed: bool) -> None:
        nonlocal runs
        runs += 1
        topic = f"t{runs}"
        given = b"\n".join(lines)
        rows = [(n, row) for n, row in enumerate(given.split(b"\n"), 1) if row.strip()]
        more = ["--type", "custom"] if typed else []
        ended = dimesh(["--output", "json", "publish", topic, *more], given)
        assert ended.code in (ExitCode.OK, ExitCode.PARTIAL), ended.err[:500]
        result = json.loads(ended.out)
        complaints = [json.loads(line) for line in ended.err.splitlines()]
        assert all(complaint["error"] for complaint in complaints)
        named = [complaint["line"] for complaint in complaints]
        # Each line is published or reported, and each reported line is reported once.
        assert result["refused"] == len(named) == len(set(named))
        assert set(named) <= {n for n, _ in rows}
        assert result["published"] == len(rows) - len(named)
        if not result["published"]:
            return
        shown = dimesh(["--output", "json", "tail", topic, "--all"])
        assert shown.code == ExitCode.OK
        events = [json.loads(line) for line in shown.out.split("\n") if line]
        assert len(events) == result["published"]
        # And the output contains no control characters of the senders.
        assert "\x1b" not in dimesh(["tail", topic, "--all"]).out

    try_all(cases, check, lines=st.lists(input_lines, min_size=40, max_size=40), typed=st.booleans())
