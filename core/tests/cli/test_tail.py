"""``dimesh tail``: the newest events, the search for events, and the display of changes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dimesh import Event
from dimesh.cdc.events import CDCEvent
from dimesh.cli.event_lines import content_of
from dimesh.cli.exit_codes import ExitCode
from dimesh.spi.cdc import Operation

from .conftest import Run, environment


def orders(*numbers: int, **more: object) -> str:
    return "".join(
        json.dumps({"event_type": "order.created", "payload": {"order": n, **more}}) + "\n" for n in numbers
    )


def shown(dimesh: Run, *arguments: str) -> list[int]:
    return [e["payload"]["order"] for e in dimesh("--output", "json", "tail", "orders", *arguments).lines]


@pytest.mark.slow
def test_the_newest_events_are_printed(dimesh: Run) -> None:
    dimesh("publish", "orders", stdin=orders(*range(25)))
    human = dimesh("tail", "orders")
    assert [f'"order": {n}' in line for n, line in enumerate(human.out.splitlines(), 15)] == [True] * 10
    assert "--all every event" in human.err
    assert shown(dimesh, "-n", "2") == [23, 24]


@pytest.mark.slow
def test_other_ranges(dimesh: Run) -> None:
    dimesh("publish", "orders", stdin=orders(*range(25)))
    assert shown(dimesh) == [*range(15, 25)]
    assert shown(dimesh, "--newest", "30") == [*range(25)]
    assert shown(dimesh, "-n", "0") == []
    assert shown(dimesh, "--all", "--limit", "2") == [0, 1]
    assert shown(dimesh, "--limit", "2") == [23, 24]
    assert shown(dimesh, "--since", "10 minutes ago") == [*range(25)]
    assert shown(dimesh, "--since", "an hour ago", "-n", "1") == [24]
    assert shown(dimesh, "--since", "2100-01-01", "-n", "1") == []
    assert "--all" in dimesh("tail", "orders", "--all", "-n", "1", code=ExitCode.CONFIGURATION).err


@pytest.mark.slow
def test_events_are_found_by_field_id_and_trace(dimesh: Run) -> None:
    dimesh("publish", "orders", stdin=orders(*range(2_000)) + orders(7, who={"name": "Ada"}))
    assert shown(dimesh, "--where", "payload.order=7") == [7, 7]
    assert shown(dimesh, "--where", "payload.order=7", "--where", "payload.who.name=Ada") == [7]
    assert shown(dimesh, "--where", "payload.order!=7", "-n", "1") == [1_999]
    assert shown(dimesh, "--where", "payload.order=-1") == []
    (event,) = dimesh("--output", "json", "tail", "orders", "--where", "payload.order=3").lines
    assert shown(dimesh, "--id", event["metadata"]["event_id"]) == [3]
    assert shown(dimesh, "--trace", event["metadata"]["trace_id"]) == [3]
    assert (
        event["metadata"]["event_id"]
        in dimesh("tail", "orders", "--trace", event["metadata"]["trace_id"], "--ids").out
    )
    wrong = dimesh("tail", "orders", "--where", "order=7", code=ExitCode.CONFIGURATION)
    assert "such as payload.order=7" in wrong.err


@pytest.mark.slow
def test_follow_begins_with_the_newest(dimesh: Run, tmp_path: Path) -> None:
    dimesh("publish", "orders", stdin=orders(*range(20)))
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "dimesh",
            "--output",
            "json",
            "tail",
            "orders",
            "-f",
            "-n",
            "1",
            "--limit",
            "2",
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["payload"]["order"] == 19
    dimesh("publish", "orders", stdin=orders(20))
    assert json.loads(process.stdout.readline())["payload"]["order"] == 20
    assert process.wait(20) == 0
    process.stdout.close()


def content(operation: Operation, **rows: object) -> str:
    return content_of(CDCEvent(operation, "shop", "customer", {"id": 7}, **rows).to_event("P"))  # type: ignore[arg-type]


def test_a_change_is_shown_as_object_key_and_fields() -> None:
    old = {"id": 7, "status": "open", "total": 3, "note": None}
    assert (
        content(Operation.INSERT, after=old) == 'customer id=7  insert  status: "open", total: 3, note: null'
    )
    assert content(Operation.UPDATE, before=old, after={**old, "status": "paid", "total": 3.5}) == (
        'customer id=7  update  status: "open" -> "paid", total: 3 -> 3.5'
    )
    assert content(Operation.UPDATE, after={"id": 7, "status": "paid"}, partial=True) == (
        'customer id=7  update  status: ? -> "paid"'
    )
    assert (
        content(Operation.UPDATE, after={"a": 1, "b": 2}, changed_fields=["b"])
        == "customer id=7  update  b: ? -> 2"
    )
    assert content(Operation.UPDATE, before=old, after={"status": "x"}, partial=True) == (
        'customer id=7  update  status: "open" -> "x"'
    )
    assert content(Operation.DELETE, before={"id": 7, "a": 1}) == "customer id=7  delete  a: 1"
    assert content(Operation.DELETE) == "customer id=7  delete"


def test_the_line_of_a_change_is_bounded() -> None:
    line = content(Operation.INSERT, after={f"f{n}": "x" * 10_000 for n in range(100)})
    assert len(line) < 1_000
    assert "… 92 more" in line


def test_an_event_that_only_resembles_a_change_is_shown_as_json() -> None:
    payload = {"object": "o", "primary_key": ["id"], "operation": "update", "before": 1, "after": []}
    assert json.loads(content_of(Event("cdc.update", None, payload))) == payload
