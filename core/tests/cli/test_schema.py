from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

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
