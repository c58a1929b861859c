"""Values of events, as commands print them: none forges a line, moves the cursor or changes the direction of the text."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from pathlib import Path

import pytest

from dimesh import Event, EventBusFactory, EventMetadata, RetryPolicy, SubscriptionOptions
from dimesh.cli.errors import guarded
from dimesh.printable import printable, printable_lines

FORGED = "2026-01-01 00:00:00  0/9  order.paid  Bank:teller  {}"
HOSTILE = f"x\n{FORGED}\r\x1b[2J\x9b2J\x85\u2028\u2029\u202e\x00\t\N{SNOWMAN}"


@pytest.fixture
def mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mesh with one event whose every value is hostile; it is dead-lettered with a hostile reason, too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dimesh.toml").write_text('[bus.options]\npath = "mesh.db"\n')

    async def fails(event: Event) -> None:
        raise ValueError(HOSTILE)

    async def make() -> None:
        async with EventBusFactory.create("sqlite", path="mesh.db") as bus:
            await bus.subscribe(
                "orders", fails, "g", options=SubscriptionOptions(retry=RetryPolicy(attempts=1))
            )
            metadata = EventMetadata(
                event_id=HOSTILE, source_pillar=HOSTILE, source_agent=HOSTILE, tags={HOSTILE: HOSTILE}
            )
            await bus.publish("orders", Event("order.created", metadata, {HOSTILE: HOSTILE}), key=HOSTILE)
            async with asyncio.timeout(60):
                await bus.idle()

    asyncio.run(make())


COMMANDS = (
    ["tail", "orders"],
    ["tail", "orders.dlq"],
    ["dlq", "list"],
    ["dlq", "list", "--ids"],
    ["dlq", "show", "orders", HOSTILE],
    ["tail", HOSTILE],
    ["publish", "orders"],
    ["explain", HOSTILE],
    ["explain", "x\ny"],
    ["dlq", "redrive", "orders", "--id", "x\ny"],
    ["dlq", "redrive", "orders"],
)


@pytest.mark.parametrize("form", ["human", "json"])
@pytest.mark.slow
def test_no_value_forges_a_line(
    mesh: None, form: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in COMMANDS:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f'{{"{FORGED}\n'.encode())))
        guarded(["--output", form, *command])
        printed = capsys.readouterr()
        for line in f"{printed.out}\n{printed.err}".split("\n"):
            assert line.isprintable(), (command, ascii(line))
            assert not line.startswith(FORGED), command
        if command[0] == "tail" and form == "human":
            assert len(printed.out.splitlines() + printed.err.splitlines()) == 1


@pytest.mark.slow
def test_the_values_of_json_are_not_changed(mesh: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(["--output", "json", "tail", "orders"]) == 0
    printed = capsys.readouterr().out
    event = json.loads(printed)
    assert event["payload"] == {HOSTILE: HOSTILE}
    assert event["metadata"]["source_agent"] == HOSTILE
    assert "\N{SNOWMAN}" in printed


def test_printable() -> None:
    assert printable("Zoë \N{PILE OF POO}") == "Zoë \N{PILE OF POO}"
    assert printable("a\nb\x1b\x9b\u2028\u202e\ud800") == "a\\nb\\x1b\\x9b\\u2028\\u202e\\ud800"
    assert printable_lines("a\nb\r\n  c") == "a\n  b\\r\n  c"
