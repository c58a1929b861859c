"""Random schemas, values, damages and edits, against Google's compiler and runtime, and against what reading means."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pool, json_format, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st
from protobuf_random import Maker, edited, has_meaning, json_value, value_of
from protoc import compiled, without_names

from dimesh.errors import InvalidSchemaError, SchemaValidationError
from dimesh.spi.schema import Outcome
from dimesh_protobuf import ProtobufSchema, language

SEEDS = st.integers(0, 2**32)


def parse(text: str) -> ProtobufSchema | None:
    try:
        return language.parse(text)
    except (
        InvalidSchemaError
    ) as error:  # messages that require themselves are the only ones that people cannot use
        assert "requires itself" in str(error) or "of a oneof" in str(error), (error, text)
        return None


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_descriptors_and_bytes_are_those_of_google(seed: int) -> None:
    rng = random.Random(seed)
    text = Maker(rng).make().text()
    schema = parse(text)
    if schema is None:
        return
    assert language.parse(schema.canonical).canonical == schema.canonical
    assert language.parse(schema.serialized).canonical == schema.canonical
    with tempfile.TemporaryDirectory() as folder:
        proto = compiled(Path(folder), text)
    assert proto is not None, text
    assert without_names(schema.file.proto) == without_names(proto), text
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(proto.SerializeToString())
    cls = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.v1.M0"))
    assert schema.root is not None
    for _ in range(3):
        value = value_of(rng, schema.root)
        assert schema.is_valid(value), schema.problems(value)
        payload = schema.encode(value)
        theirs = json_format.ParseDict(json_value(schema.root, value), cls())
        assert payload == theirs.SerializeToString(deterministic=True), (text, value)
        read = schema.decode(payload)
        assert schema.encode(read) == payload
        assert has_meaning(schema.root, schema.root, value, read), (text, value, read)


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_damaged_payloads_are_errors_or_values(seed: int) -> None:
    rng = random.Random(seed)
    schema = parse(Maker(rng).make().text())
    if schema is None or schema.root is None:
        return
    for _ in range(3):
        payload = schema.encode(value_of(rng, schema.root))
        for _ in range(5):
            damaged = bytearray(payload[: rng.randint(0, len(payload))])
            if damaged and rng.random() < 0.8:
                damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
            try:
                read = schema.decode(bytes(damaged))
            except SchemaValidationError:
                continue
            assert schema.is_valid(read), schema.problems(read)


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_verdicts_of_random_edits_are_true(seed: int) -> None:
    """A yes is attacked by random values, a no has a witness, nothing is undecided, and what is read has its meaning."""
    rng = random.Random(seed)
    model = Maker(rng).make()
    before, after = parse(model.text()), parse(edited(rng, model).text())
    if before is None or after is None:
        return
    writer, reader = before.message("M0"), after.message("M0")
    assert writer.root is not None
    assert reader.root is not None
    verdict = language.compare(writer, reader, "strict")
    assert verdict.outcome is not Outcome.UNDECIDED, (verdict, before.text, after.text)
    values: list[Any] = [value_of(rng, writer.root) for _ in range(10)]
    if verdict.witness is not None:
        assert not can_read(reader, writer, verdict.witness.value)
        values.append(verdict.witness.value)
    for value in values:
        fresh = language.parse(after.text).message("M0")  # which has compared nothing yet
        for one in (reader, fresh):
            read = can_read(one, writer, value)
            assert read or not verdict, (before.text, after.text, value)
            if read:
                found = one.decode(writer.encode(value), writer)
                assert one.is_valid(found)
                assert has_meaning(writer.root, reader.root, value, found), (
                    before.text,
                    after.text,
                    value,
                    found,
                )


def can_read(reader: ProtobufSchema, writer: ProtobufSchema, value: Any) -> bool:
    try:
        reader.decode(writer.encode(value), writer)
    except SchemaValidationError:
        return False
    return True
