from __future__ import annotations

import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from dimesh.cli.exit_codes import ExitCode
from dimesh.cli.main import HELP

from .conftest import Run, environment


def ndjson(*payloads: object, type: str = "order.created") -> str:
    return "".join(json.dumps({"event_type": type, "payload": p}) + "\n" for p in payloads)


@pytest.mark.slow
def test_publish_and_tail(dimesh: Run) -> None:
    assert "published 3 events to orders" in dimesh("publish", "orders", stdin=ndjson(1, 2, 3)).out
    events = dimesh("--output", "json", "tail", "orders").lines
    assert [e["payload"] for e in events] == [1, 2, 3]
    # publish accepts the output of tail, and keeps the ids.
    again = dimesh("--output", "json", "tail", "orders").out
    dimesh("publish", "copy", stdin=again)
    copies = dimesh("--output", "json", "tail", "copy").lines
    assert {e["metadata"]["event_id"] for e in copies} == {e["metadata"]["event_id"] for e in events}
    human = dimesh("tail", "orders", "--limit", "1").out
    assert "order.created" in human
    assert len(human.splitlines()) == 1


@pytest.mark.slow
def test_publish_bare_payloads_from_a_file(dimesh: Run, tmp_path: Path) -> None:
    (tmp_path / "rows.ndjson").write_text('{"n": 1}\n\n{"n": 2}\n')
    result = dimesh(
        "--output",
        "json",
        "publish",
        "t",
        "rows.ndjson",
        "--type",
        "row.added",
        "--pillar",
        "P",
        "--agent",
        "a",
    )
    assert result.json == {"topic": "t", "published": 2, "valid": 2, "refused": 0, "dry_run": False}
    (first, _) = dimesh("--output", "json", "tail", "t").lines
    assert first["event_type"] == "row.added"
    assert (first["metadata"]["source_pillar"], first["metadata"]["source_agent"]) == ("P", "a")


@pytest.mark.slow
def test_lines_that_cannot_be_published_are_reported(dimesh: Run) -> None:
    bad = (
        b'{"event_type": "a.b", "payload": 1}\nnot json\n{"event_type": "UPPER"}\n{"event_type": "a.b", "x": 1}\n'
        b'\xff\xfe\n{"event_type": "a.b", "payload": {"k": 1, "k": 2}}\n' + b"[" * 20_000 + b"\n"
        b'{"event_type": "a.b", "payload": NaN}\n{"event_type": "a.b", "payload": 2}\n'
    )
    result = dimesh("publish", "t", stdin=bad, code=ExitCode.PARTIAL)
    assert "published 2 events to t, 7 refused" in result.out
    for line in (2, 3, 4, 5, 6, 7, 8):
        assert f"line {line}: " in result.err
    assert [e["payload"] for e in dimesh("--output", "json", "tail", "t").lines] == [1, 2]


@pytest.mark.slow
def test_lines_with_headers_of_the_engine_are_refused(dimesh: Run) -> None:
    """Line by line: those without such a header are published."""
    lines = b"".join(
        json.dumps({"event_type": "a.b", "payload": name, "headers": {name: "system.audit"}}).encode() + b"\n"
        for name in ("x-own", "dimesh-reply-to", "dimesh-redrive-group", "DIMESH-x")
    )
    result = dimesh("publish", "t", stdin=lines, code=ExitCode.PARTIAL)
    assert "published 1 events to t, 3 refused" in result.out
    assert "line 2: header 'dimesh-reply-to' is reserved" in result.err
    assert [e["payload"] for e in dimesh("--output", "json", "tail", "t").lines] == ["x-own"]


@pytest.mark.slow
def test_dry_run_publishes_nothing(dimesh: Run) -> None:
    assert "would publish 2" in dimesh("publish", "t", "--dry-run", stdin=ndjson(1, 2)).out
    dimesh("tail", "t", code=ExitCode.NOT_FOUND)


@pytest.mark.slow
def test_tail_filters_and_since(dimesh: Run) -> None:
    dimesh("publish", "t", stdin=ndjson(1) + ndjson(2, type="other.type"))
    assert [e["payload"] for e in dimesh("--output", "json", "tail", "t", "--type", "other.type").lines] == [
        2
    ]
    assert len(dimesh("--output", "json", "tail", "t", "--since", "1h").lines) == 2
    assert dimesh("tail", "t", "--since", "2100-01-01").out == ""
    assert dimesh("tail", "t", "--pillar", "Nobody").out == ""
    assert "is not a time" in dimesh("tail", "t", "--since", "some day", code=ExitCode.CONFIGURATION).err
    assert "priorities are" in dimesh("tail", "t", "--priority", "huge", code=ExitCode.CONFIGURATION).err


@pytest.mark.slow
def test_follow_shows_new_events(dimesh: Run, tmp_path: Path) -> None:
    dimesh("publish", "t", stdin=ndjson(1))
    process = subprocess.Popen(
        [sys.executable, "-m", "dimesh", "--output", "json", "tail", "t", "--follow", "--limit", "2"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["payload"] == 1
    dimesh("publish", "t", stdin=ndjson(2))
    assert json.loads(process.stdout.readline())["payload"] == 2
    assert process.wait(20) == 0
    process.stdout.close()


@pytest.mark.slow
def test_topics_and_groups(dimesh: Run) -> None:
    assert dimesh("--output", "json", "topics").json == []
    dimesh("publish", "t", stdin=ndjson(1, 2))
    (topic,) = dimesh("--output", "json", "topics").json
    assert (topic["topic"], topic["records"]) == ("t", 2)
    assert "t" in dimesh("topics").out
    assert dimesh("--output", "json", "groups").json == []


@pytest.mark.slow
def test_replay(dimesh: Run) -> None:
    dimesh("publish", "t", stdin=ndjson(*range(10)))
    assert "published 10 events of t to again" in dimesh("replay", "t", "--to-topic", "again").out
    assert len(dimesh("--output", "json", "tail", "again").lines) == 10
    dimesh("replay", "t", code=ExitCode.CONFIGURATION)
    dimesh("replay", "t", "--to-topic", "t", code=ExitCode.CONFIGURATION)
    dimesh("replay", "t", "--group", "nobody", code=ExitCode.NOT_FOUND)
    dimesh("replay", "nope", "--to-topic", "x", code=ExitCode.NOT_FOUND)
    for offset in ("9" * 20, "9" * 5_000):
        wrong = dimesh("replay", "t", "--to-topic", "x", "--from", offset, code=ExitCode.CONFIGURATION)
        assert "is not an offset" in wrong.err


@pytest.mark.slow
def test_plugins_config_doctor(dimesh: Run, tmp_path: Path) -> None:
    rows = dimesh("--output", "json", "plugins").json
    assert {("bus", "memory"), ("bus", "sqlite"), ("cdc", "outbox")} <= {(r["kind"], r["name"]) for r in rows}
    (tmp_path / "dimesh.toml").write_text(
        '[bus.options]\npath = "x.db"\n[[sources]]\ndriver = "outbox"\nname = "s"\nobjects = ["o"]\n[sources.options]\napi_key = "hunter2"\n'
    )
    shown = dimesh("--output", "json", "config", "show", DIMESH_BUS__DRAIN_TIMEOUT="3").json
    origins = {row["setting"]: row["origin"] for row in shown}
    assert origins["bus.options.path"].startswith("dimesh.toml")
    assert origins["bus.drain_timeout"] == "DIMESH_BUS__DRAIN_TIMEOUT"
    assert origins["mesh.name"] == "default"
    for form in ("human", "json"):
        assert "hunter2" not in dimesh("--output", form, "config", "show").out
    failed = dimesh("--output", "json", "doctor", code=ExitCode.FAILED)
    checks = {row["check"]: row["result"] for row in failed.json}
    assert checks["source s"] == "failed"  # x.db is no database of an application
    assert checks["round trip"] == "ok"
    assert checks["durability"] == "ok"
    assert (tmp_path / "x.db").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nonsense"], ExitCode.USAGE, "No such command"),
        pytest.param(["tail"], ExitCode.USAGE, "Missing argument", marks=pytest.mark.slow),
        pytest.param(["tail", "t", "--bogus"], ExitCode.USAGE, "No such option", marks=pytest.mark.slow),
        pytest.param(
            ["tail", "nope"], ExitCode.NOT_FOUND, "no topic is named 'nope'", marks=pytest.mark.slow
        ),
        pytest.param(["publish", "../etc", "-"], ExitCode.USAGE, "topic name", marks=pytest.mark.slow),
        pytest.param(
            ["publish", "\N{PILE OF POO}", "-"], ExitCode.USAGE, "topic name", marks=pytest.mark.slow
        ),
        pytest.param(
            ["publish", "x" * 10_000, "-"], ExitCode.USAGE, "10002 characters", marks=pytest.mark.slow
        ),
        pytest.param(
            ["publish", "t", "no-such-file"], ExitCode.CONFIGURATION, "cannot be read", marks=pytest.mark.slow
        ),
        pytest.param(
            ["--config", "nope.toml", "topics"], ExitCode.CONFIGURATION, "nope.toml", marks=pytest.mark.slow
        ),
        pytest.param(
            ["--bus-path", "/proc/nope/x.db", "topics"],
            ExitCode.UNAVAILABLE,
            "/proc/nope",
            marks=pytest.mark.slow,
        ),
        pytest.param(["dlq", "list", "nope"], ExitCode.NOT_FOUND, "nope", marks=pytest.mark.slow),
        pytest.param(["dlq", "discard", "nope"], ExitCode.CONFIGURATION, "--yes", marks=pytest.mark.slow),
        pytest.param(["run"], ExitCode.CONFIGURATION, "nothing to run", marks=pytest.mark.slow),
        pytest.param(
            ["new", "plugin", "--kind", "hooks", "../x"],
            ExitCode.CONFIGURATION,
            "name",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["new", "plugin", "--kind", "spaceship", "x"], ExitCode.USAGE, "spaceship", marks=pytest.mark.slow
        ),
    ],
)
def test_errors_are_one_line(dimesh: Run, arguments: list[str], code: int, says: str) -> None:
    result = dimesh(*arguments, code=code)
    assert says in result.err
    assert result.err.startswith("error: ")
    assert result.out == ""
    as_json = dimesh("--output", "json", *arguments, code=code)
    assert json.loads(as_json.err.splitlines()[-1])["code"] == code


@pytest.mark.slow
def test_an_argument_that_is_not_utf_8_can_be_shown(dimesh: Run) -> None:
    name = os.fsdecode(b"mesh-\xff.db")
    shown = dimesh("--output", "json", "--bus-path", name, "config", "show").json
    assert {row["value"] for row in shown if row["setting"] == "bus.options.path"} == {name}
    assert "\\udcff" in dimesh("--bus-path", name, "config", "show").out


@pytest.mark.slow
def test_a_broken_settings_file(dimesh: Run, tmp_path: Path) -> None:
    for text, says in (
        ("[bus\n", "not TOML"),
        ("[bus]\ndrivr = 'x'\n", "did you mean 'driver'"),
        ("[bus]\ndriver = 'sqlit'\n", "Did you mean 'sqlite'?"),
        ("[bus.options]\npth = 'x'\n", "no option 'pth'"),
    ):
        (tmp_path / "dimesh.toml").write_text(text)
        assert says in dimesh("topics", code=None).err


@pytest.mark.slow
def test_broken_pipe_is_no_error(dimesh: Run, tmp_path: Path) -> None:
    dimesh("publish", "t", stdin=ndjson(*range(3_000)))
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"{sys.executable} -m dimesh --output json tail t --all | head -1; exit ${{PIPESTATUS[0]}}",
        ],
        cwd=tmp_path,
        capture_output=True,
        env=environment(),
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.slow
def test_no_colour_outside_a_terminal(dimesh: Run) -> None:
    assert "\x1b" not in dimesh("plugins").out
    assert "\x1b" not in dimesh("--no-color", "plugins").out


@pytest.mark.slow
def test_control_characters_of_events_do_not_reach_the_terminal(dimesh: Run) -> None:
    dimesh("publish", "t", stdin=ndjson({"x": "\x1b[2J\x07"}))
    assert "\x1b" not in dimesh("tail", "t").out


def test_the_kept_help_names_every_command() -> None:
    # docs/generate.py --check verifies that it equals the output of the installed typer.
    code = "from dimesh.cli.errors import guarded; guarded(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = set(re.findall(r"^\W*([a-z-]+)  ", done.stdout, re.MULTILINE))
    assert {"demo", "publish", "new"} <= said
    assert said <= set(re.findall(r"^\W*([a-z-]+)  ", HELP.read_text("utf-8"), re.MULTILINE))


def test_help_version_and_completion(dimesh: Run) -> None:
    assert "Exit codes" in dimesh("--help").out
    assert dimesh().out == dimesh("--help").out
    assert dimesh("--version").out == "dimesh 0.1.0\n"
    assert "--follow" in dimesh("tail", "--help").out


@pytest.mark.slow
def test_dead_letters(dimesh: Run, tmp_path: Path) -> None:
    dimesh("demo", "--part", "bus", "--dir", "d")
    mesh = ("--bus-path", str(tmp_path / "d" / "mesh.db"))
    (entry,) = dimesh(*mesh, "--output", "json", "dlq", "list").json
    assert entry["reason"] == "LookupError: no product p-404"
    assert entry["event_id"] in dimesh(*mesh, "dlq", "list", "--ids").out
    shown = dimesh(*mesh, "--output", "json", "dlq", "show", "orders", entry["event_id"]).lines[0]
    assert shown["event"]["payload"] == {"order": 7, "product": "p-404"}
    assert len(dimesh(*mesh, "--output", "json", "dlq", "redrive", "orders").json["done"]) == 1
    assert dimesh(*mesh, "--output", "json", "dlq", "list").json == []
    (all_,) = dimesh(*mesh, "--output", "json", "dlq", "list", "orders", "--all").json
    assert all_["state"] == "redriven"
    for options in ((), ("--quiet",), ("--output", "json")):
        wrong = dimesh(*mesh, *options, "dlq", "show", "orders", "nope", code=ExitCode.NOT_FOUND)
        assert "no dead letter of orders has the id 'nope'" in wrong.err
    groups = {g["group"]: g["lag"] for g in dimesh(*mesh, "--output", "json", "groups").json}
    assert groups["shipping"] == 1  # the command waits for the handler


@pytest.mark.slow
def test_the_demo_checks_itself_and_can_be_run_again(dimesh: Run) -> None:
    for _ in range(2):
        result = dimesh("--output", "json", "demo").json
        assert result["ok"]
        assert {"bus", "registry", "cdc", "lineage"} <= set(result["parts"])
    for part in ("registry", "cdc", "lineage"):
        assert set(dimesh("--output", "json", "demo", "--part", part).json["parts"]) == {part}
    assert "Try next" in dimesh("demo").out


@pytest.mark.slow
def test_the_demo_replaces_no_folder_that_is_not_its_own(dimesh: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("precious")
    dimesh("demo", "--part", "lineage", "--dir", "mine", code=None)
    assert (tmp_path / "mine" / "file").read_text() == "precious"


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_run_handles_events_and_stops_gracefully(dimesh: Run, tmp_path: Path, number: int) -> None:
    (tmp_path / "shop.py").write_text(
        "import pathlib\n"
        "async def ship(event):\n"
        "    with pathlib.Path('shipped').open('a') as f: f.write(f\"{event.payload['order']}\\n\")\n"
    )
    (tmp_path / "dimesh.toml").write_text(
        '[lineage]\nenabled = true\n[[handlers]]\ntopic = "orders"\ncall = "shop:ship"\nstart = "earliest"\n'
    )
    dimesh("publish", "orders", stdin=ndjson({"order": 1}, {"order": 2}))
    process = subprocess.Popen(
        [sys.executable, "-m", "dimesh", "--output", "json", "run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert "started" in json.loads(process.stdout.readline())
    dimesh("publish", "orders", stdin=ndjson({"order": 3}))
    import time

    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if (tmp_path / "shipped").exists() and len((tmp_path / "shipped").read_text().split()) == 3:
            break
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(20) == 0, process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    assert sorted((tmp_path / "shipped").read_text().split()) == ["1", "2", "3"]
    (group,) = dimesh("--output", "json", "groups").json
    assert (group["group"], group["lag"]) == ("shop:ship", 0)
    assert (tmp_path / "mesh-data" / "lineage").exists()


@pytest.mark.parametrize("start", ["-m dimesh", "-c from\tdimesh.cli.main\timport\tmain;main()"])
@pytest.mark.slow
def test_a_file_in_the_working_folder_replaces_no_installed_module(
    dimesh: Run, tmp_path: Path, start: str
) -> None:
    """Handlers are imported from the working folder, and json, logging and msgspec are not."""
    for name in ("json", "logging", "msgspec", "pydantic"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the wrong module')\n")
    (tmp_path / "shop.py").write_text("def ship(event): print('handled', event.payload, flush=True)\n")
    (tmp_path / "dimesh.toml").write_text(
        '[[handlers]]\ntopic = "orders"\ncall = "shop:ship"\nstart = "earliest"\n'
    )
    dimesh("publish", "orders", stdin=ndjson(7))
    checks = dimesh("--output", "json", "doctor").json
    assert {row["result"] for row in checks if row["check"] != "disk"} <= {"ok", "warning"}, checks
    process = subprocess.Popen(
        [sys.executable, *start.split(" ", 1), "run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env={**environment(), "PYTHONSAFEPATH": "" if start.startswith("-m") else "1"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "handled 7\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    process.stdout.close()


@pytest.mark.slow
def test_handlers_that_cannot_be_imported(dimesh: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit('no database')\n")
    (tmp_path / "silent.py").write_text("async def h(event): yield\ndef none(): pass\n")
    for call, says in (
        ("leaves:f", "importing leaves failed: SystemExit: no database"),
        ("silent:h", "remove the 'yield'"),
        ("silent:none", "cannot be called with one argument"),
        ("nowhere:f", "no module 'nowhere'"),
        ("broken:f", "ZeroDivisionError"),
        ("json:nope", "has no 'nope'"),
        ("json:__name__", "not a function"),
        ("json", "package.module:function"),
    ):
        (tmp_path / "dimesh.toml").write_text(f'[[handlers]]\ntopic = "t"\ncall = "{call}"\n')
        assert says in dimesh("run", code=ExitCode.CONFIGURATION).err


@pytest.mark.slow
def test_change_sources(dimesh: Run, tmp_path: Path) -> None:
    """Check, run, show and forget a configured source; the history contains a gap and the deleted row."""
    from dimesh.backends.cdc.outbox import watch

    def shop(*rows: tuple[int, str]) -> None:
        (tmp_path / "shop.db").unlink(missing_ok=True)
        with closing(sqlite3.connect(tmp_path / "shop.db")) as app, app:
            app.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, product TEXT)")
            app.executemany("INSERT INTO orders VALUES (?, ?)", rows)
            watch(app, "orders")

    def follow() -> None:
        running = subprocess.Popen(
            [sys.executable, "-m", "dimesh", "run"],
            cwd=tmp_path,
            env=environment(),
            stderr=subprocess.DEVNULL,
        )
        try:
            until = time.monotonic() + 30
            while time.monotonic() < until:
                (row,) = dimesh("--output", "json", "cdc", "status").json
                if row["phase"] == "stream" and row["repairs"] == repairs:
                    return
            raise AssertionError(row)
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(20)

    shop((1, "lamp"), (2, "desk"))
    (tmp_path / "dimesh.toml").write_text(
        '[bus]\ndriver = "sqlite"\n[[sources]]\ndriver = "outbox"\nname = "shop"\nobjects = ["orders"]\n'
        '[sources.options]\npath = "shop.db"\npoll = 0.05\n'
    )
    (row,) = dimesh("--output", "json", "cdc", "check").json
    assert (row["source"], row["object"], row["state"]) == ("shop", "orders", "ok")
    assert dimesh("cdc", "status").out.count("not started") == 1
    assert "nothing was missed" in dimesh("cdc", "history").out + dimesh("cdc", "history").err
    repairs = 0
    follow()
    shop((2, "desk"), (3, "chair"))  # another database replaces it: the position and order 1 are lost
    repairs = 1
    follow()
    found = dimesh("--output", "json", "cdc", "history").json
    assert [(line["what"], line["deleted"]) for line in found] == [("gap", None), ("repaired", 1)]
    changes = dimesh("--output", "json", "tail", "cdc.outbox").lines
    assert [e["payload"]["primary_key"] for e in changes if e["event_type"] == "cdc.delete"] == [{"id": 1}]
    dimesh("cdc", "reset", "shop", "orders")
    assert dimesh("cdc", "status").out.count("not started") == 1
    assert "captures orders" in dimesh("cdc", "reset", "shop", "nope", code=1).err
    assert "there are: shop" in dimesh("cdc", "check", "shp", code=3).err


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Create an application's database with three orders, and the settings of a mesh that captures it."""
    from dimesh.backends.cdc.outbox import watch

    with closing(sqlite3.connect(tmp_path / "shop.db")) as app:
        with app:
            app.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, product TEXT)")
            app.executemany("INSERT INTO orders VALUES (?, ?)", [(1, "lamp"), (2, "desk"), (3, "chair")])
            watch(app, "orders")
        (tmp_path / "dimesh.toml").write_text(
            '[bus]\ndriver = "sqlite"\n[[sources]]\ndriver = "outbox"\nname = "shop"\nobjects = ["orders"]\n'
            '[sources.options]\npath = "shop.db"\npoll = 0.05\n'
        )
        yield app


@contextmanager
def capturing(tmp_path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "dimesh", "--output", "json", *arguments],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stdout is not None
        process.stdout.close()


def within(seconds: float, true: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
def test_capturing_in_the_foreground_and_pausing_from_elsewhere(
    dimesh: Run, tmp_path: Path, shop: sqlite3.Connection
) -> None:
    def captured() -> set[str]:
        return {
            e["payload"]["after"]["product"] for e in dimesh("--output", "json", "tail", "cdc.outbox").lines
        }

    def phase() -> str:
        (row,) = dimesh("--output", "json", "cdc", "status").json
        return str(row["phase"])

    assert "captures 'nope'" in dimesh("cdc", "run", "--object", "nope", code=ExitCode.CONFIGURATION).err
    with capturing(tmp_path, "cdc", "run", "shop", "--object", "orders") as process:
        assert process.stdout is not None
        for line in process.stdout:
            at = json.loads(line)["sources"]["shop"]["objects"]["orders"]
            if at["phase"] == "stream":
                break
        assert at["snapshot_rows"] == 3
        assert captured() == {"lamp", "desk", "chair"}
        dimesh("cdc", "pause", "shop", "orders")
        assert phase() == "stream (paused)"
        # The runner checks twice a second: a change made before it sees the mark may still arrive.
        with shop:
            shop.execute("INSERT INTO orders VALUES (10, 'before')")
        began = time.monotonic()
        for line in process.stdout:
            at = json.loads(line)["sources"]["shop"]["objects"]["orders"]
            if at["phase"] == "paused":
                break
            with shop:
                shop.execute("INSERT OR REPLACE INTO orders VALUES (11, 'meanwhile')")
            if time.monotonic() - began > 20:
                raise AssertionError(at)
        with shop:
            shop.execute("INSERT INTO orders VALUES (12, 'held back')")
        assert "held back" not in captured()
        dimesh("cdc", "resume", "shop")
        within(20, lambda: "held back" in captured())
        assert phase() == "stream"


@pytest.mark.slow
def test_reading_an_object_again(dimesh: Run, tmp_path: Path, shop: sqlite3.Connection) -> None:
    first = dimesh("--output", "json", "cdc", "snapshot", "shop", "orders").json
    assert first == {"source": "shop", "object": "orders", "rows": 3}
    with shop:
        shop.execute("INSERT INTO orders VALUES (4, 'shelf')")
    assert "4 rows of orders were read" in dimesh("cdc", "snapshot", "shop", "orders").out
    # The stream continues where it was, and does not start from the beginning: later changes still arrive.
    with capturing(tmp_path, "cdc", "run") as process:
        assert process.stdout is not None
        within(
            20,
            lambda: (
                [
                    e["payload"]["after"]["product"]
                    for e in dimesh("--output", "json", "tail", "cdc.outbox").lines
                    if e["event_type"] == "cdc.insert"
                ]
                == ["shelf"]
            ),
        )
    events = dimesh("--output", "json", "tail", "cdc.outbox").lines
    (inserted,) = (e["payload"] for e in events if e["event_type"] == "cdc.insert")
    assert inserted["during_snapshot"] is True
    dimesh("cdc", "pause", "shop")
    assert "is paused" in dimesh("cdc", "snapshot", "shop", "orders", code=1).err
    assert "captures orders" in dimesh("cdc", "pause", "shop", "nope", code=1).err
    assert "resume it without" in dimesh("cdc", "resume", "shop", "orders", code=1).err


@pytest.mark.slow
def test_the_progress_of_long_commands_on_a_terminal(
    dimesh: Run, tmp_path: Path, shop: sqlite3.Connection
) -> None:
    with shop:
        rows = ((n, f"thing {n}") for n in range(10, 60_000))
        shop.executemany("INSERT INTO orders VALUES (?, ?)", rows)

    def shown(*arguments: str, until: str) -> str:
        """Return the output until this text appears; then interrupt the command if it has not ended."""
        mine, its = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "dimesh", *arguments],
            cwd=tmp_path,
            env={**environment(), "TERM": "xterm"},
            stdin=its, stdout=its, stderr=its,
        )  # fmt: skip
        os.close(its)
        text = b""
        with suppress(OSError):  # the other side is closed
            while piece := os.read(mine, 65_536):
                text += piece
                if until.encode() in text and process.poll() is None:
                    process.send_signal(signal.SIGINT)
                    until = "\0"
        os.close(mine)
        assert process.wait(20) == 0
        return text.decode()

    line = shown("cdc", "run", until=" s left")
    assert re.search(r"shop/orders: snapshot, [\d,]+ of about [\d,]+ rows, \d+ s left", line)
    assert "shop/orders: stream, 0 changes" in shown("cdc", "run", until="stream, 0")
    assert "rows of orders were read" in (bar := shown("cdc", "snapshot", "shop", "orders", until="\0"))
    assert re.search(r"snapshot of orders .* [\d]+ rows \S*\d:\d\d:\d\d", bar)
