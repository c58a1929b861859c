"""``dimesh publish``: payloads on the command line, a terminal as the input, a bus that forgets."""

from __future__ import annotations

import json

import pytest

from dimesh.cli.exit_codes import ExitCode

from .conftest import Run, Terminal


@pytest.mark.slow
def test_a_payload_on_the_command_line(dimesh: Run) -> None:
    wrong = dimesh("publish", "orders", '{"order": 7}', code=ExitCode.CONFIGURATION)
    assert "to publish it as a payload, put --payload before it" in wrong.err
    assert (
        "published 2 events" in dimesh("publish", "orders", "--payload", '{"order": 7}', "-p", "[1,\n2]").out
    )
    events = dimesh("--output", "json", "tail", "orders").lines
    assert [(e["event_type"], e["payload"]) for e in events] == [("custom", {"order": 7}), ("custom", [1, 2])]


@pytest.mark.slow
def test_payloads_with_other_options(dimesh: Run) -> None:
    dimesh("publish", "orders", "-p", "7", "--type", "order.created", "--agent", "shop")
    (event,) = dimesh("--output", "json", "tail", "orders").lines
    assert (event["event_type"], event["metadata"]["source_agent"]) == ("order.created", "shop")
    refused = dimesh("publish", "orders", "-p", "{order: 7}", "-p", "8", "-p", "", code=ExitCode.PARTIAL)
    assert "payload 1: " in refused.err
    assert "payload 3: " in refused.err
    assert "published 1 events to orders, 2 refused" in refused.out
    assert "either" in dimesh("publish", "orders", "file", "-p", "7", code=ExitCode.CONFIGURATION).err


@pytest.mark.slow
def test_a_terminal_is_told_what_is_awaited(terminal: Terminal) -> None:
    code, lines = terminal("publish", "orders", "--type", "a.b", typed=b'{"order": 7}\n\x04')
    assert code == 0
    assert any("reading events from the terminal" in line for line in lines)
    assert lines[-1] == "published 1 events to orders"


@pytest.mark.slow
@pytest.mark.parametrize("command", [("publish", "t", "-p", "7"), ("topics",)])
def test_a_bus_in_memory_is_warned_of(dimesh: Run, command: tuple[str, ...]) -> None:
    result = dimesh(*command, DIMESH_BUS__DRIVER="memory")
    assert "warning: the memory bus keeps events in the memory of one process" in result.err
    as_json = dimesh("--output", "json", *command, DIMESH_BUS__DRIVER="memory")
    assert "memory of one process" in json.loads(as_json.err)["warning"]
    assert "warning" not in dimesh("--quiet", *command, DIMESH_BUS__DRIVER="memory").err
    assert "warning" not in dimesh(*command).err
