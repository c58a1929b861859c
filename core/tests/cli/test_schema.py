from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dimesh.registry.jsonschema.language import JsonSchema

ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {"id": {"type": "integer"}, "note": {"type": "string"}},
    "required": ["id"],
}
SUBJECT = "event.order.created"


def test_schemas_from_the_first_version_to_the_last(dimesh: Any, tmp_path: Path) -> None:
    """As a user works with them: sample, schema, next version, a version that is refused with an example."""
    (tmp_path / "dimesh.toml").write_text('[registry]\ndriver = "sqlite"\noptions = { path = "r.db" }\n')
    (tmp_path / "samples.jsonl").write_text('{"id": 1, "note": "a"}\n{"id": 2}\n')
    inferred = dimesh("schema", "infer", "samples.jsonl").json
    assert inferred["properties"] == ORDER["properties"]
    assert inferred["required"] == ["id"]
    folder = tmp_path / "schemas"
    folder.mkdir()
    file = folder / f"{SUBJECT}.json"
    file.write_text(json.dumps(ORDER))
    assert dimesh("schema", "register", SUBJECT, str(file)).out == f"{SUBJECT}: version 1, id 1\n"
    assert dimesh("--output", "json", "schema", "register", SUBJECT, str(file)).json["version"] == 1

    file.write_text(json.dumps({**ORDER, "required": ["id", "note"]}))
    refused = dimesh("schema", "check", "schemas", code=1)
    assert f"{SUBJECT}: NOT compatible" in refused.out
    assert "'note' is required now (for example {" in refused.out
    (row,) = dimesh("--output", "json", "schema", "check", SUBJECT, str(file), code=1).json
    assert row["witnesses"] == [{"id": row["witnesses"][0]["id"]}]
    assert "'note' is required now" in dimesh("schema", "register", SUBJECT, str(file), code=1).err

    file.write_text(json.dumps({**ORDER, "properties": {**ORDER["properties"], "at": {"type": "string"}}}))
    assert dimesh("schema", "check", "schemas").out == f"{SUBJECT}: compatible\n"
    dimesh("schema", "register", SUBJECT, str(file))
    rows = dimesh("--output", "json", "schema", "list", SUBJECT).json
    assert [(r["version"], r["change"]) for r in rows] == [(1, "first"), (2, "compatible")]
    assert json.loads(dimesh("schema", "get", SUBJECT, "--version", "1").out) == ORDER
    assert "version 1 reads data of version 2: proved" in dimesh("schema", "diff", SUBJECT, "1", "2").out

    (tmp_path / "payloads.jsonl").write_text('{"id": 1}\n{"id": "x"}\n')
    wrong = dimesh("schema", "validate", SUBJECT, "payloads.jsonl", code=1)
    assert "document 2: /id" in wrong.out
    assert f"1 of 2 documents satisfy {SUBJECT} (version 2)" in wrong.out

    assert "delete it first" in dimesh("schema", "delete", SUBJECT, "--permanent", code=1).err
    assert dimesh("schema", "delete", SUBJECT).out == f"deleted {SUBJECT}: version 1, 2\n"
    dimesh("schema", "delete", SUBJECT, "--permanent")
    assert "there is no subject" in dimesh("schema", "get", SUBJECT, code=7).err


MODELS = """
from dataclasses import dataclass
from typing import Annotated, Optional, TypedDict

import msgspec
from pydantic import BaseModel, Field


class Line(BaseModel):
    sku: str = Field(max_length=40)


class Order(BaseModel):
    id: int
    lines: list[Line] = []
    note: Optional[str] = None


class Row(msgspec.Struct):
    id: Annotated[int, msgspec.Meta(ge=1)]
    currency: str = "EUR"


@dataclass
class Item:
    id: int
    parent: Optional["Item"] = None


class Address(TypedDict):
    city: str


class Plain:
    pass


class Odd(msgspec.Struct):
    what: complex
"""


def test_a_schema_of_a_class_allows_what_the_class_allows(dimesh: Any, tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    for name, valid, wrong in (
        ("Order", {"id": 1, "lines": [{"sku": "a"}], "note": None}, {"lines": []}),
        ("Row", {"id": 1}, {"id": 0}),
        ("Item", {"id": 1, "parent": {"id": 2, "parent": None}}, {"id": 1, "parent": {}}),
        ("Address", {"city": "Bonn"}, {"city": 1}),
    ):
        made = dimesh("schema", "infer", "--class", f"models:{name}", "--title", "T").json
        assert made["title"] == "T"
        assert made["type"] == "object", "the class is at the top and not behind a reference"
        parsed = JsonSchema().parse(json.dumps(made))
        assert parsed.is_valid(valid), (name, parsed.problems(valid))
        assert not parsed.is_valid(wrong), name
    assert "is not a pydantic model" in dimesh("schema", "infer", "--class", "models:Plain", code=3).err
    assert "has no JSON Schema" in dimesh("schema", "infer", "--class", "models:Odd", code=3).err
    assert "has no 'Nobody'" in dimesh("schema", "infer", "--class", "models:Nobody", code=3).err


@pytest.mark.slow
def test_a_schema_of_the_events_of_a_topic(dimesh: Any, tmp_path: Path) -> None:
    def publish(type_: str, *payloads: dict[str, Any]) -> None:
        given = [part for payload in payloads for part in ("--payload", json.dumps(payload))]
        dimesh("publish", "orders", "--type", type_, *given)

    publish("order.created", {"id": "old"}, {"id": 1, "note": "n"}, {"id": 2})
    made = dimesh("schema", "infer", "--topic", "orders", "--limit", "2").json
    assert made["properties"] == {"id": {"type": "integer"}, "note": {"type": "string"}}
    assert made["required"] == ["id"]
    publish("order.moved", {"to": "B"})
    several = dimesh("schema", "infer", "--topic", "orders", code=3).err
    assert "choose one with --type" in several
    assert "order.created, order.moved" in several
    moved = dimesh("schema", "infer", "--topic", "orders", "--type", "order.moved").json
    assert moved["properties"] == {"to": {"type": "string"}}
    assert "no events of type order.lost" in (
        dimesh("schema", "infer", "--topic", "orders", "--type", "order.lost", code=3).err
    )
    assert "no topic is named 'other'" in dimesh("schema", "infer", "--topic", "other", code=7).err
    assert "name one of FILE" in dimesh("schema", "infer", code=3).err


@pytest.mark.slow
def test_the_next_version_is_made_by_the_helpers(dimesh: Any, tmp_path: Path) -> None:
    (tmp_path / "order.json").write_text(json.dumps(ORDER))
    dimesh("schema", "register", SUBJECT, "order.json")
    changes = ("--add", "channel=string", "--default", "channel=web", "--add", 'size={"enum": [1, 2]}')
    shown = dimesh("schema", "evolve", SUBJECT, *changes, "--deprecate", "note=use remarks")
    assert shown.json["properties"]["channel"] == {"type": "string", "default": "web"}
    assert shown.json["required"] == ["id", "channel"]
    assert shown.json["properties"]["note"]["deprecated"] is True
    assert f"{SUBJECT}: compatible with version 1 (BACKWARD, tolerant)" in shown.err
    assert [r["version"] for r in dimesh("--output", "json", "schema", "list", SUBJECT).json] == [1]

    done = dimesh("schema", "evolve", SUBJECT, "--rename", "note=remarks", "--register")
    assert "registered as version 2" in done.err
    assert dimesh("schema", "get", SUBJECT).json["properties"]["remarks"] == {"type": "string"}

    (tmp_path / "dimesh.toml").write_text('[registry]\npolicy = "strict"\n')
    refused = dimesh(
        "--output", "json", "schema", "evolve", SUBJECT, "--add", "x=string", "--register", code=1
    )
    assert refused.json["compatible"] is False
    assert refused.json["version"] is None
    assert "(for example" in refused.json["reasons"][0]

    for arguments, code, says in (
        ((), 3, "no change is given"),
        (("--add", "x"), 3, "write NAME=SCHEMA"),
        (("--add", "id=string"), 1, "already exists"),
        (("--add", "x=7"), 1, "no schema of a field"),
        (("--default", "x=7"), 3, "there is no --add"),
        (("--deprecate", "nope=x"), 1, "there is no field 'nope'"),
    ):
        assert says in dimesh("schema", "evolve", SUBJECT, *arguments, code=code).err, arguments
    assert "there is no subject" in dimesh("schema", "evolve", "nobody", "--add", "x=string", code=7).err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("get", "nobody"), 7, "there is no subject"),
        (("register", "s", "missing.json"), 3, "cannot be read"),
        (("check", "missing"), 3, "is no folder"),
        (("check", "."), 3, "has no schemas"),
        (("register", "s", "bad.json"), 1, "not a Draft 7 schema"),
        (("register", "s", "good.json", "--reference", "x"), 3, "NAME=SUBJECT:VERSION"),
        (("register", "s", "good.json", "--reference", "x=y:1"), 1, "register it first"),
        (("delete", "nobody"), 7, "does not exist"),
    ],
)
@pytest.mark.slow
def test_mistakes(dimesh: Any, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    (tmp_path / "dimesh.toml").write_text('[registry]\ndriver = "memory"\n')
    (tmp_path / "bad.json").write_text('{"type": "strin"}') if "bad.json" in arguments else None
    (tmp_path / "good.json").write_text("{}") if "good.json" in arguments else None
    assert says in dimesh("schema", *arguments, code=code).err
