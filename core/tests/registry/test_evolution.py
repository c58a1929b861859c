"""What :class:`SchemaEvolutionHelper` promises, on random schemas: by proof, and by data that goes through readers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_schemas import RandomSchemas

from dimesh import CompatibilityMode, SchemaEvolutionHelper
from dimesh.errors import InvalidSchemaError, SchemaValidationError
from dimesh.registry.jsonschema.compatibility.nodes import Graph
from dimesh.registry.jsonschema.compatibility.proof import Proof
from dimesh.registry.jsonschema.compatibility.verdict import POLICIES
from dimesh.registry.jsonschema.compatibility.witness import UnsatisfiableError, Values
from dimesh.registry.jsonschema.language import JsonSchema
from dimesh.registry.jsonschema.parsed import ParsedJsonSchema
from dimesh.spi.schema import Outcome

Schema = dict[str, Any]
CHANGES = ("add_optional_field", "add_required_field_with_default", "rename_field", "deprecate_field")
NEW_NAMES = ("n", "ab", "c")
LANGUAGE = JsonSchema()

many = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
)
seeds = st.integers(0, 2**32 - 1)


def parse(schema: Any) -> ParsedJsonSchema:
    return LANGUAGE.parse(json.dumps(schema))


def without_formats(schema: Any) -> Any:
    """Return a schema whose defaults need no format: the helpers do not check the formats of defaults."""
    if isinstance(schema, list):
        return [without_formats(item) for item in schema]
    if isinstance(schema, dict):
        return {key: without_formats(item) for key, item in schema.items() if key != "format"}
    return schema


def changed(random: RandomSchemas, change: str) -> tuple[Schema, Schema]:
    """Return a random schema and the schema after a change; the rest of an example that has none is not tried."""
    base = random.schema()
    assume(isinstance(base, dict))
    before = copy.deepcopy(base)
    name, field = random.rng.choice(NEW_NAMES), without_formats(random.schema(2))
    old = sorted(base.get("properties", {}))
    helper: Callable[..., Schema] = getattr(SchemaEvolutionHelper, change)
    try:
        if change == "add_optional_field":
            made = helper(base, name, field if isinstance(field, dict) else {})
        elif change == "add_required_field_with_default":
            made = helper(base, name, field if isinstance(field, dict) else {}, random.scalar())
        elif change == "rename_field":
            made = helper(base, old[0] if old else "none", name)
        else:
            made = helper(base, old[0] if old else "none", "too old")
        parse(base)
    except InvalidSchemaError:
        assume(False)
        raise
    assert base == before, "the argument was changed"
    return base, made


@many
@given(seeds, st.sampled_from(CHANGES), st.sampled_from(["strict", "defaults", "tolerant"]))
def test_what_is_promised_is_proved(seed: int, change: str, policy: str) -> None:
    base, made = changed(RandomSchemas(seed), change)
    mode = SchemaEvolutionHelper.promised(change, base, policy)
    old, new = parse(base), parse(made)
    if mode.backward:
        assert LANGUAGE.compare(old, new, policy).outcome is not Outcome.REFUTED, (base, made)
    if mode.forward:
        assert LANGUAGE.compare(new, old, policy).outcome is not Outcome.REFUTED, (base, made)


def documents(schema: ParsedJsonSchema) -> list[Any]:
    """Return some values that a writer of a schema sends: valid, and with declared properties only."""
    found = []
    root = Graph(schema.documents).root
    proof = Proof(POLICIES["tolerant"])
    declared = schema.document.get("properties", {})
    for n in range(12):
        try:
            value = Values(proof, n).value(root)
        except UnsatisfiableError:
            continue
        if isinstance(value, dict):
            value = {name: item for name, item in value.items() if name in declared}
        if schema.is_valid(value):
            found.append(value)
    return found


@many
@given(seeds, st.sampled_from(CHANGES))
def test_data_of_one_version_is_read_by_the_other(seed: int, change: str) -> None:
    """Without the engine of comparisons: every document of a writer goes through the reader."""
    base, made = changed(RandomSchemas(seed), change)
    old, new = parse(base), parse(made)
    for writer, reader in ((old, new), (new, old)):
        for value in documents(writer):
            read = reader.decode(writer.encode(value), writer)
            if isinstance(value, dict):
                assert value.keys() <= read.keys(), "nothing that was sent is lost"
            if change == "add_required_field_with_default" and reader is new and isinstance(read, dict):
                assert set(made["required"]) <= read.keys() | set(base.get("required", ()))


@many
@given(seeds)
def test_what_is_refused_has_a_rule_that_breaks_the_promise_or_could(seed: int) -> None:
    """A refusal names the keyword, and the keyword is in the schema."""
    random = RandomSchemas(seed)
    base = random.schema()
    assume(isinstance(base, dict))
    name = random.rng.choice(NEW_NAMES)
    assume(name not in base.get("properties", {}))
    try:
        SchemaEvolutionHelper.add_optional_field(base, name, {"type": "string"})
    except InvalidSchemaError as error:
        keyword = str(error).split("'")[3]
        assert keyword in base


@many
@given(seeds, st.sampled_from(CHANGES[:3]))
def test_changes_one_after_another_keep_the_promise(seed: int, change: str) -> None:
    """FULL is transitive here: the last version reads the first one, and the first one the last."""
    random = RandomSchemas(seed)
    first, second = changed(random, change)
    try:
        third = SchemaEvolutionHelper.add_required_field_with_default(second, "later", {"type": "integer"}, 1)
    except InvalidSchemaError:
        assume(False)
        raise
    old, new = parse(first), parse(third)
    assert LANGUAGE.compare(old, new, "tolerant").outcome is not Outcome.REFUTED
    assert LANGUAGE.compare(new, old, "tolerant").outcome is not Outcome.REFUTED


ORDER: Schema = {
    "type": "object",
    "properties": {"id": {"type": "integer", "default": 3}},
    "required": ["id"],
}
CLOSED: Schema = {**ORDER, "additionalProperties": False}


@pytest.mark.parametrize("base", [ORDER, CLOSED], ids=["open", "closed"])
@pytest.mark.parametrize("policy", ["strict", "defaults", "tolerant"])
@pytest.mark.parametrize("change", CHANGES)
def test_the_stated_modes_are_the_strongest(change: str, policy: str, base: Schema) -> None:
    """Of a simple schema: what is promised is proved, and what is not promised is refuted."""
    text = {"type": "string"}
    made = {
        "add_optional_field": lambda: SchemaEvolutionHelper.add_optional_field(base, "note", text),
        "add_required_field_with_default": lambda: SchemaEvolutionHelper.add_required_field_with_default(
            base, "note", text, "-"
        ),
        "rename_field": lambda: SchemaEvolutionHelper.rename_field(base, "id", "number"),
        "deprecate_field": lambda: SchemaEvolutionHelper.deprecate_field(base, "id", "use number"),
    }[change]()
    mode = SchemaEvolutionHelper.promised(change, base, policy)
    old, new = parse(base), parse(made)
    for needed, writer, reader in ((mode.backward, old, new), (mode.forward, new, old)):
        wanted = Outcome.PROVED if needed else Outcome.REFUTED
        assert LANGUAGE.compare(writer, reader, policy).outcome is wanted


@pytest.mark.parametrize(
    ("rule", "keyword"),
    [
        ({"required": ["note"]}, "required"),
        ({"patternProperties": {"^n": {"type": "integer"}}}, "patternProperties"),
        ({"additionalProperties": {"type": "integer"}}, "additionalProperties"),
        ({"propertyNames": {"maxLength": 2}}, "propertyNames"),
        ({"maxProperties": 1}, "maxProperties"),
        ({"dependencies": {"id": ["note"]}}, "dependencies"),
        ({"allOf": [{"properties": {"note": {"type": "integer"}}}]}, "allOf"),
        ({"if": {"required": ["note"]}, "then": {}}, "if"),
    ],
)
def test_a_field_with_a_rule_about_it_is_not_new(rule: Schema, keyword: str) -> None:
    with pytest.raises(InvalidSchemaError, match=f"'note' is not new: '{keyword}'"):
        SchemaEvolutionHelper.add_optional_field({**ORDER, **rule}, "note", {"type": "string"})


def test_a_field_beside_a_reference_is_refused() -> None:
    with pytest.raises(InvalidSchemaError, match="Draft 7 ignores"):
        SchemaEvolutionHelper.add_optional_field({"$ref": "money.json"}, "note", {})
    newer = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$ref": "money.json"}
    assert SchemaEvolutionHelper.add_optional_field(newer, "note", {})["properties"] == {"note": {}}


def test_a_renamed_field_keeps_the_old_name_for_older_data() -> None:
    made = SchemaEvolutionHelper.rename_field(ORDER, "id", "number")
    assert made["properties"]["number"] == {"type": "integer"}
    assert made["properties"]["id"] == {
        "type": "integer",
        "default": 3,
        "deprecated": True,
        "description": "Deprecated: use number",
    }
    with pytest.raises(InvalidSchemaError, match="no field 'nope'; the fields are: id"):
        SchemaEvolutionHelper.rename_field(ORDER, "nope", "number")
    with pytest.raises(InvalidSchemaError, match="already exists"):
        SchemaEvolutionHelper.rename_field(ORDER, "id", "id")


def test_promises_are_known_by_name() -> None:
    assert SchemaEvolutionHelper.promised("add_optional_field", ORDER) is CompatibilityMode.FULL
    with pytest.raises(InvalidSchemaError, match="the changes are add_optional_field"):
        SchemaEvolutionHelper.promised("add", ORDER)
    with pytest.raises(InvalidSchemaError, match="under the policy 'confluent'"):
        SchemaEvolutionHelper.promised("add_optional_field", ORDER, "confluent")


def test_an_optional_field_whose_default_is_wrong_breaks_no_reader() -> None:
    """Nothing checks a default that an author writes into a schema, and a reader must not fill it in."""
    made = SchemaEvolutionHelper.add_optional_field(ORDER, "note", {"type": "string", "default": 5})
    old, new = parse(ORDER), parse(made)
    assert new.decode(old.encode({"id": 1}), old) == {"id": 1}


def test_a_default_that_does_not_satisfy_its_schema_is_refused() -> None:
    with pytest.raises(InvalidSchemaError, match="default of 'note'"):
        SchemaEvolutionHelper.add_required_field_with_default(ORDER, "note", {"type": "string"}, 5)
    with pytest.raises(SchemaValidationError):
        parse(ORDER).encode({})
