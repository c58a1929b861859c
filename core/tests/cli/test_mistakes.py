"""Fifty mistakes of people on the command line: each ends with its exit code and with one sentence that says what is wrong."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dimesh.cli.errors import guarded
from dimesh.cli.exit_codes import ExitCode

USAGE, CONFIGURATION, PLUGIN = ExitCode.USAGE, ExitCode.CONFIGURATION, ExitCode.PLUGIN
UNAVAILABLE, PARTIAL, NOT_FOUND = ExitCode.UNAVAILABLE, ExitCode.PARTIAL, ExitCode.NOT_FOUND

SOURCE = '[[sources]]\ndriver = "outbox"\nname = "app"\nobjects = ["orders"]\noptions = { path = "app.db" }\n'
HANDLER = '[[handlers]]\ntopic = "orders"\ncall = "'

MISTAKES: list[tuple[str, str, ExitCode, str]] = [
    # arguments
    ("nonsense", "", USAGE, "No such command 'nonsense'"),
    ("--verbose topics", "", USAGE, "No such option: --verbose"),
    ("--output xml topics", "", USAGE, "Invalid value for '--output'"),
    ("--log-level loud topics", "", USAGE, "Invalid value for '--log-level'"),
    ("--log-format text topics", "", USAGE, "Invalid value for '--log-format'"),
    ("--config", "", USAGE, "Option '--config' requires an argument"),
    ("tail", "", USAGE, "Missing argument"),
    ("tail orders --folow", "", USAGE, "No such option: --folow"),
    ("tail orders --limit 0", "", USAGE, "Invalid value for '--limit'"),
    ("tail orders --limit many", "", USAGE, "Invalid value for '--limit'"),
    ("tail orders --since sometime", "", CONFIGURATION, "'sometime' is not a time"),
    ("tail orders --priority huge", "", CONFIGURATION, "priorities are"),
    ("tail nope", "", NOT_FOUND, "no topic is named 'nope'"),
    ("publish", "", USAGE, "Missing argument"),
    ("publish ../etc", "", USAGE, "cannot be a topic name"),
    ("publish orders nope.ndjson", "", CONFIGURATION, "nope.ndjson cannot be read: No such file"),
    ("publish orders . --type a.b", "", CONFIGURATION, ". cannot be read"),
    ("publish orders --batch 0", "", USAGE, "Invalid value for '--batch'"),
    ("publish orders --delay=-1", "", USAGE, "Invalid value for '--delay'"),
    ("publish orders --type Order", "", PARTIAL, "cannot be an event type"),
    ("publish orders", "", PARTIAL, "line 1: "),
    ("replay orders", "", CONFIGURATION, "give either --group"),
    ("replay orders --group g --to-topic t", "", CONFIGURATION, "give either --group"),
    ("replay orders --to-topic t --from 99999999999999999999", "", CONFIGURATION, "is not an offset"),
    ("replay nope --to-topic t", "", NOT_FOUND, "no topic is named 'nope'"),
    ("groups --topic nope", "", NOT_FOUND, "no topic is named 'nope'"),
    ("dlq list nope", "", NOT_FOUND, "nope"),
    ("dlq show orders", "", USAGE, "Missing argument"),
    ("dlq show orders nope", "", NOT_FOUND, "orders"),
    ("dlq discard orders", "", CONFIGURATION, "add --yes"),
    ("dlq redrive orders --limit 0", "", USAGE, "Invalid value for '--limit'"),
    ("new plugin --kind spaceship x", "", USAGE, "'spaceship'"),
    ("new plugin --kind bus ../x", "", CONFIGURATION, "name"),
    ("sandbox nobody", "", CONFIGURATION, "no installed plugin has a sandbox of 'nobody'"),
    ("--bus-path /proc/nope/x.db topics", "", UNAVAILABLE, "/proc/nope"),
    # settings
    ("--config nope.toml topics", "", CONFIGURATION, "nope.toml"),
    ("topics", "[bus\n", CONFIGURATION, "dimesh.toml is not TOML"),
    ("topics", '[bus]\ndrivr = "x"\n', CONFIGURATION, "did you mean 'driver'"),
    ("topics", '[bus]\ndriver = "sqlit"\n', PLUGIN, "Did you mean 'sqlite'?"),
    ("topics", '[bus.options]\npth = "x"\n', CONFIGURATION, "no option 'pth'"),
    ("topics", '[bus]\ndrain_timeout = "soon"\n', CONFIGURATION, "bus.drain_timeout"),
    (
        "topics",
        '[bus.options]\npath = "${NOPE}"\n',
        CONFIGURATION,
        "environment variable NOPE, which is not set",
    ),
    ("run", '[log]\nlevel = "loud"\n', CONFIGURATION, "log.level"),
    ("run", "", CONFIGURATION, "nothing to run"),
    ("run", HANDLER + 'nowhere:ship"\n', CONFIGURATION, "no module 'nowhere'"),
    ("run", HANDLER + 'json:nope"\n', CONFIGURATION, "has no 'nope'"),
    ("run", HANDLER + 'json"\n', CONFIGURATION, "package.module:function"),
    ("run", HANDLER + 'json:dumps"\nattempts = 0\n', CONFIGURATION, "handlers"),
    ("webhooks serve", SOURCE, CONFIGURATION, "no source of the settings receives webhooks"),
    ("webhooks serve --port 70000", SOURCE, USAGE, "Invalid value for '--port'"),
    ("webhooks serve --body-timeout -1", SOURCE, CONFIGURATION, "body_timeout must be positive"),
    ("cdc check nope", SOURCE, CONFIGURATION, "'nope'"),
    ("cdc run nope", SOURCE, CONFIGURATION, "'nope'"),
    ("cdc pause nope", SOURCE, CONFIGURATION, "'nope'"),
    ("cdc snapshot app", SOURCE, USAGE, "Missing argument"),
    ("registry serve --listen nonsense", "", CONFIGURATION, "it must be HOST:PORT"),
    ("registry serve --listen ::1:80", "", CONFIGURATION, "must be in brackets"),
    ("run", "[registry.serve]\nmount = true\n", CONFIGURATION, "needs the address of [http] listen"),
]


@pytest.fixture(autouse=True)
def undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in an empty folder, and restore what a command changes in its process."""
    monkeypatch.chdir(tmp_path)
    path, level, handlers = (
        list(sys.path),
        logging.getLogger("dimesh").level,
        list(logging.getLogger().handlers),
    )
    yield
    sys.path[:] = path
    logging.getLogger("dimesh").setLevel(level)
    logging.getLogger().handlers[:] = handlers


@pytest.mark.parametrize(
    ("line", "settings", "code", "says"),
    # Every fourth one is among the quick tests.
    [
        pytest.param(*mistake, id=mistake[0], marks=() if number % 4 == 0 else pytest.mark.slow)
        for number, mistake in enumerate(MISTAKES)
    ],
)
def test_a_mistake_has_its_exit_code_and_sentence(
    line: str,
    settings: str,
    code: ExitCode,
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "dimesh.toml").write_text(settings or '[bus.options]\npath = "mesh.db"\n')
    errors = []
    for form in ((), ("--output", "json")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"{}\n")))
        ended = guarded([*form, *line.split()])
        printed = capsys.readouterr()
        assert ended == code, printed.err
        errors.append(printed.err)
    human, as_json = errors
    assert says in human
    assert "Traceback" not in human
    assert "bug in dimesh" not in human
    if code is not PARTIAL:
        assert human.startswith("error: ")
        assert json.loads(as_json.splitlines()[-1])["code"] == code
    assert len(human.splitlines()) <= 2  # the second one names the help
