"""``dimesh run`` with ``[[schemas]]``: what becomes of a backlog whose schema changed, and of events that are not valid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .processes import eventually, free_port, get, running

OLD: dict[str, Any] = {
    "type": "object",
    "properties": {"id": {"type": "integer"}},
    "required": ["id"],
    "additionalProperties": False,
}
NEW: dict[str, Any] = {
    **OLD,
    "properties": {**OLD["properties"], "currency": {"type": "string", "default": "EUR"}},
    "required": ["id", "currency"],
}
SUBJECT = "event.order.created"
HANDLERS = """
import json
from pathlib import Path
import pytest



def take(event):
    with Path("got").open("a") as got:
        got.write(json.dumps(event.payload) + "\\n")
"""
SETTINGS = """
[[schemas]]
topic = "orders.*"
{rule}

[[handlers]]
topic = "orders.*"
call = "shop:take"
group = "shop"
start = "earliest"
"""


def mesh(folder: Path, rule: str, more: str = "") -> None:
    (folder / "dimesh.toml").write_text(more + SETTINGS.format(rule=rule))
    (folder / "shop.py").write_text(HANDLERS)


def got(folder: Path) -> list[Any]:
    file = folder / "got"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def register(dimesh: Any, folder: Path, schema: Any) -> None:
    (folder / "schema.json").write_text(json.dumps(schema))
    dimesh("schema", "register", SUBJECT, "schema.json")


def publish(dimesh: Any, payload: Any, code: int = 0, topic: str = "orders.eu") -> Any:
    return dimesh("publish", topic, "--type", "order.created", "--payload", json.dumps(payload), code=code)


def test_a_backlog_is_handled_after_a_compatible_change(dimesh: Any, tmp_path: Path) -> None:
    mesh(tmp_path, "")
    register(dimesh, tmp_path, OLD)
    for n in range(3):
        publish(dimesh, {"id": n})
    register(dimesh, tmp_path, NEW)
    with running(tmp_path, "run"):
        eventually(lambda: len(got(tmp_path)) == 3)
    assert got(tmp_path) == [{"id": n, "currency": "EUR"} for n in range(3)]
    assert dimesh("--output", "json", "dlq", "list").json == []
    # A new event is written with the new version, and an event that satisfies neither is not published.
    assert '"currency" is a required property' in publish(dimesh, {"id": 9}, code=6).err


@pytest.mark.slow
def test_with_warn_an_invalid_event_is_handled_and_reported(dimesh: Any, tmp_path: Path) -> None:
    port = free_port()
    mesh(tmp_path, 'publish = "warn"\nconsume = "warn"', f"[http]\nlisten = '127.0.0.1:{port}'\n")
    register(dimesh, tmp_path, OLD)
    assert "1 published although their check failed" in publish(dimesh, {"id": "x"}).err
    with running(tmp_path, "run"):
        eventually(lambda: got(tmp_path) == [{"id": "x"}])
        counter = 'dimesh_schema_failures_total{topic="orders.eu",stage="consume",outcome="warned"} 1'
        eventually(lambda: counter in get(port, "/metrics")[1])
    assert "/id" in (tmp_path / "log").read_text()
    assert dimesh("--output", "json", "dlq", "list").json == []


@pytest.mark.slow
def test_with_dead_letter_an_invalid_event_is_dead_lettered(dimesh: Any, tmp_path: Path) -> None:
    """Before a handler, and at publish as well if the rule says so."""
    mesh(tmp_path, 'publish = "off"\nconsume = "dead-letter"')
    register(dimesh, tmp_path, OLD)
    publish(dimesh, {"id": "x"})
    publish(dimesh, {"id": 1})
    with running(tmp_path, "run"):
        eventually(lambda: dimesh("--output", "json", "dlq", "list", "orders.eu", code=None).code == 0)
        eventually(lambda: got(tmp_path) == [{"id": 1}])
    (letter,) = dimesh("--output", "json", "dlq", "list").json
    assert "/id" in letter["reason"]
    assert letter["group"] == "shop"

    mesh(tmp_path, 'publish = "dead-letter"')
    assert "dead-lettered, see 'dimesh dlq list orders.eu'" in publish(dimesh, {"id": "y"}, code=6).err
    letters = dimesh("--output", "json", "dlq", "list").json
    assert [one["handler"] for one in letters][1:] == ["(publish)"]


@pytest.mark.slow
def test_rules_that_are_wrong_are_refused_at_the_start(dimesh: Any, tmp_path: Path) -> None:
    mesh(tmp_path, 'publish = "drop"')
    assert "schemas.0.publish" in dimesh("topics", "list", code=3).err
    mesh(tmp_path, 'subject = "topic"', '[registry]\npolicy = "kind"\n')
    assert "registry.policy" in dimesh("topics", "list", code=3).err


@pytest.mark.slow
def test_dead_letters_are_mended_by_a_version_of_their_schema(dimesh: Any, tmp_path: Path) -> None:
    mesh(tmp_path, 'publish = "dead-letter"')
    register(dimesh, tmp_path, OLD)
    publish(dimesh, {"id": "x"}, code=6)
    publish(dimesh, {"id": "far too long"}, code=6)
    wider = {**OLD["properties"], "id": {"type": ["integer", "string"], "maxLength": 3}}
    wider["currency"] = {"type": "string", "default": "EUR"}
    register(dimesh, tmp_path, {**OLD, "properties": wider, "required": ["id", "currency"]})
    assert "'newest'" in dimesh("dlq", "redrive", "orders.eu", "--to-schema", "next", code=3).err
    trial = dimesh("dlq", "redrive", "orders.eu", "--to-schema", "newest", "--dry-run", code=6)
    assert "would be redriven: 1, skipped: 1" in trial.out
    assert len(dimesh("--output", "json", "dlq", "list").json) == 2
    done = dimesh("--output", "json", "dlq", "redrive", "orders.eu", "--to-schema", "2", code=6).json
    assert [len(done["done"]), len(done["skipped"])] == [1, 1]
    assert "version 2" in done["skipped"][0]["why"]
    with running(tmp_path, "run"):
        eventually(lambda: got(tmp_path) == [{"id": "x", "currency": "EUR"}])
