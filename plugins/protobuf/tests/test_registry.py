"""Protobuf in the registry: registration, identity, references and refusals, on the stores that people use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from protobuf_examples import CHANGES, LINE, ORDER, ORDER_SPELLED, message

from dimesh import LocalSchemaRegistry
from dimesh.errors import IncompatibleSchemaError, InvalidSchemaError
from dimesh.spi.registry import Reference
from dimesh_protobuf import ProtobufSchema

BASKET = (
    'syntax = "proto3"; package shop; import "shop/line.proto"; message Basket { repeated Line lines = 1; }'
)
TO_LINE = [Reference("shop/line.proto", "line", 1)]


async def test_protobuf_is_registered_with_references_and_read_again(tmp_path: Path) -> None:
    path = str(tmp_path / "registry.db")
    async with LocalSchemaRegistry(path=path) as registry:
        await registry.register("line", LINE, format="PROTOBUF")
        first = await registry.register("basket", BASKET, format="PROTOBUF", references=TO_LINE)
        spelled = BASKET.replace("Line lines", ".shop.Line lines /* all of them */")
        again = await registry.register("basket", spelled, format="PROTOBUF", references=TO_LINE)
        assert (again.version, again.schema_id) == (first.version, first.schema_id)
        with pytest.raises(
            InvalidSchemaError, match=r"line 1, column 34: the import 'shop/line\.proto' is not among"
        ):
            await registry.register("basket", BASKET, format="PROTOBUF")
    async with LocalSchemaRegistry(path=path) as registry:
        assert await registry.validate("basket", {"lines": [{"n": 1}]})
        (problem,) = await registry.explain("basket", {"lines": [{"n": "x"}]})
        assert problem.path == "/lines/0/n"
        found = await registry.registered("basket")
        payload = found.schema.encode({"lines": [{"n": 1}]})
        assert (await registry.by_id(first.schema_id)).schema.decode(payload) == {"lines": [{"n": 1}]}


async def test_a_descriptor_and_its_text_are_one_version() -> None:
    async with LocalSchemaRegistry() as registry:
        first = await registry.register("order", ORDER, format="PROTOBUF")
        schema = (await registry.registered("order")).schema
        assert isinstance(schema, ProtobufSchema)
        for text in (ORDER_SPELLED, schema.serialized, schema.canonical):
            again = await registry.register("order", text, format="PROTOBUF")
            assert again.version == first.version


@pytest.mark.parametrize("number", [n for n, change in enumerate(CHANGES) if not change.compatible])
async def test_an_incompatible_version_is_refused_with_its_reason(number: int) -> None:
    change = CHANGES[number]
    async with LocalSchemaRegistry() as registry:
        await registry.register("subject", change.writer, format="PROTOBUF")
        with pytest.raises(IncompatibleSchemaError, match="version 1") as raised:
            await registry.register("subject", change.reader, format="PROTOBUF")
        assert raised.value.reasons


async def test_a_compatible_version_is_registered() -> None:
    async with LocalSchemaRegistry() as registry:
        await registry.register("subject", message("int32 a = 1;"), format="PROTOBUF")
        found = await registry.register("subject", message("int64 a = 1; string b = 2;"), format="PROTOBUF")
        assert found.version == 2


def test_the_command_line_lists_the_language() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "dimesh", "--output", "json", "plugins"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    rows = json.loads(listed.stdout)
    assert ["dimesh-protobuf", "available"] in [
        [row["distribution"], row["state"]]
        for row in rows
        if (row["kind"], row["name"]) == ("schema", "protobuf")
    ]
