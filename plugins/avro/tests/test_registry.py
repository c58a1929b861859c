"""Avro in the registry: registration, identity, references and refusals, on the stores that people use."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from avro_examples import CHANGES

from dimesh import LocalSchemaRegistry
from dimesh.errors import IncompatibleSchemaError, InvalidSchemaError
from dimesh.ops.evolution import evolve
from dimesh.spi.registry import Reference
from dimesh.spi.schema import Change, FormattedSchema, Outcome

LINE = {"type": "record", "name": "Line", "namespace": "shop", "fields": [{"name": "n", "type": "int"}]}
ORDER: dict[str, Any] = {
    "type": "record",
    "name": "Order",
    "namespace": "shop",
    "fields": [{"name": "lines", "type": {"type": "array", "items": "Line"}}],
}
TO_LINE = [Reference("shop.Line", "line", 1)]


async def test_avro_is_registered_with_references_and_read_again(tmp_path: Path) -> None:
    path = str(tmp_path / "registry.db")
    async with LocalSchemaRegistry(path=path) as registry:
        await registry.register("line", LINE, format="AVRO")
        first = await registry.register("order", ORDER, format="AVRO", references=TO_LINE)
        spelled = json.dumps({**ORDER, "name": "shop.Order"}, indent=4, sort_keys=True)
        again = await registry.register("order", spelled, format="AVRO", references=TO_LINE)
        assert (again.version, again.schema_id) == (first.version, first.schema_id)
        with pytest.raises(InvalidSchemaError, match=r"'shop\.Line' is neither"):
            await registry.register("order", ORDER, format="AVRO")
    async with LocalSchemaRegistry(path=path) as registry:
        assert await registry.validate("order", {"lines": [{"n": 1}]})
        (problem,) = await registry.explain("order", {"lines": [{"n": "x"}]})
        assert problem.path == "/lines/0/n"
        found = await registry.registered("order")
        payload = found.schema.encode({"lines": [{"n": 1}]})
        assert (await registry.by_id(first.schema_id)).schema.decode(payload) == {"lines": [{"n": 1}]}


@pytest.mark.parametrize("number", [n for n, change in enumerate(CHANGES) if not change.compatible])
async def test_an_incompatible_version_is_refused_with_its_reason(number: int) -> None:
    """Whatever the value is that the reader cannot read: a time, a decimal, bytes, the branch of a union."""
    change = CHANGES[number]
    async with LocalSchemaRegistry() as registry:
        await registry.register("subject", change.writer, format="AVRO")
        with pytest.raises(IncompatibleSchemaError, match="version 1") as raised:
            await registry.register("subject", change.reader, format="AVRO")
        assert raised.value.reasons


def test_the_command_line_lists_the_language() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "dimesh", "--output", "json", "plugins"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    rows = json.loads(listed.stdout)
    assert ["dimesh-avro", "available"] in [
        [row["distribution"], row["state"]]
        for row in rows
        if (row["kind"], row["name"]) == ("schema", "avro")
    ]


async def test_the_helpers_change_a_record_as_far_as_avro_allows() -> None:
    """A field with a default is FULL; a new name with an alias is BACKWARD, since older readers know no alias."""
    async with LocalSchemaRegistry(defaults=False) as registry:
        await registry.register("line", LINE, format="AVRO")
        fields = [Change("add", "note", "string"), Change("add", "unit", {"type": "string"}, ("pcs",))]
        await registry.set_compatibility("line", "FULL")
        made = await evolve(registry, "line", fields, register=True)
        assert (made.version, made.compatible) == (2, True)
        added = json.loads(made.text)["fields"][1:]
        assert added == [
            {"name": "note", "type": ["null", "string"], "default": None},
            {"name": "unit", "type": {"type": "string"}, "default": "pcs"},
        ]
        rename = [Change("rename", "n", text="number"), Change("deprecate", "unit", text="use note")]
        refused = await evolve(registry, "line", rename, register=True)
        assert (refused.compatible, refused.version) == (False, None)
        await registry.set_compatibility("line", "BACKWARD")
        renamed = await evolve(registry, "line", rename, register=True)
        assert renamed.version == 3
        first, last = await registry.registered("line", 1), await registry.registered("line", 3)
        value = last.read(first.schema.encode({"n": 5}), first)
        assert value == {"number": 5, "note": None, "unit": "pcs"}
        assert json.loads(renamed.text)["fields"][2]["doc"] == "Deprecated: use note"
        for change, says in (
            (Change("add", "number", "string"), "already exists"),
            (Change("add", "n", "string"), "is an alias"),
            (Change("rename", "nope", text="x"), "fields are: note, number, unit"),
        ):
            with pytest.raises(InvalidSchemaError, match=says):
                await evolve(registry, "line", [change])
        await registry.register("word", '"string"', format="AVRO")
        with pytest.raises(InvalidSchemaError, match="only a record"):
            await evolve(registry, "word", [Change("add", "x", "string")])


async def test_a_resolved_schema_has_each_named_type_where_it_is_used_first() -> None:
    """As Confluent's API has it with ``format=resolved``: no references are needed, and nothing else changes."""
    money = {"type": "record", "name": "Money", "namespace": "bank", "fields": [
        {"name": "unit", "type": {"type": "enum", "name": "Unit", "symbols": ["EUR", "USD"]}},
        {"name": "also", "type": ["null", "Unit"]},
    ]}  # fmt: skip
    line = {"type": "record", "name": "shop.Line", "fields": [
        {"name": "price", "type": "bank.Money"}, {"name": "next", "type": ["null", "Line"]},
    ]}  # fmt: skip
    order = {"type": "record", "name": "Order", "namespace": "shop", "fields": [
        {"name": "first", "type": "Line"},
        {"name": "lines", "type": {"type": "array", "items": "Line"}},
        {"name": "units", "type": {"type": "map", "values": "bank.Unit"}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ]}  # fmt: skip
    async with LocalSchemaRegistry(defaults=False) as registry:
        await registry.register("money", money, format="AVRO")
        to_money = [Reference("bank.Money", "money", 1)]
        await registry.register("line", line, format="AVRO", references=to_money)
        await registry.register("order", order, format="AVRO", references=[Reference("shop.Line", "line", 1)])
        together = (await registry.registered("order", 1)).schema
        assert isinstance(together, FormattedSchema)
        text = together.formatted("resolved")
        assert text is not None
        assert together.formatted("serialized") is None
        language = registry.parser.language("AVRO")
        alone = language.parse(text)
        for one, other in ((alone, together), (together, alone)):
            assert language.compare(one, other, "strict").outcome is Outcome.PROVED
        price = {"unit": "EUR", "also": "USD"}
        value = {
            "first": {"price": price, "next": None},
            "lines": [{"price": price, "next": {"price": price, "next": None}}],
            "units": {"a": "USD"},
            "at": datetime(2026, 1, 1, tzinfo=UTC),
        }
        assert together.decode(alone.encode(value)) == value
