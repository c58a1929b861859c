"""Bitmaps and schemas, as recorded in a real org and beyond."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dimesh_salesforce.schemas import DecodingError, Schema, Schemas

ADDRESS = [
    "Street", "City", "State", "PostalCode", "Country", "StateCode", "CountryCode", "Latitude", "Longitude", "Xyz",
    "GeocodeAccuracy",
]  # fmt: skip
HEADER = {
    "name": "ChangeEventHeader",
    "type": {
        "type": "record",
        "name": "ChangeEventHeader",
        "fields": [{"name": "entityName", "type": "string"}],
    },
}


def nullable(kind: Any) -> list[Any]:
    return ["null", kind]


def schema(fields: list[dict[str, Any]]) -> Schema:
    return Schema(
        "s",
        json.dumps(
            {
                "type": "record",
                "name": "AccountChangeEvent",
                "namespace": "com.sforce.eventbus",
                "fields": [HEADER, *fields],
            }
        ),
    )


def plain(name: str) -> dict[str, Any]:
    return {"name": name, "type": nullable("string"), "default": None}


def account() -> Schema:
    """86 fields as in the recording: an address in places 5 and 6, LastModifiedDate in place 23."""
    address = {"type": "record", "name": "Address", "fields": [plain(name) for name in ADDRESS]}
    name = {
        "type": "record",
        "name": "Switchable_PersonName",
        "fields": [plain("FirstName"), plain("LastName")],
    }
    fields = [plain(f"F{n}") for n in range(1, 86)]
    fields[0] = {"name": "Name", "type": ["null", "string", name], "default": None}
    fields[4] = {"name": "BillingAddress", "type": nullable(address), "default": None}
    fields[5] = {"name": "ShippingAddress", "type": nullable("Address"), "default": None}
    fields[22] = plain("LastModifiedDate")
    return schema(fields)


@pytest.mark.parametrize(
    ("bitmaps", "names"),
    [
        (["0x800000", "6-0x01"], ["LastModifiedDate", "ShippingAddress.Street"]),
        (["6-0x0180"], ["ShippingAddress.Latitude", "ShippingAddress.Longitude"]),
        (["0x100000000000800000"], ["LastModifiedDate", "F68"]),
        (["0x2080"], ["F7", "F13"]),
        (["1-0x02"], ["Name.LastName"]),  # the record among the branches
        (["0x02"], ["Name"]),
        (["0x00"], []),
        ([], []),
    ],
)
def test_recorded_bitmaps(bitmaps: list[str], names: list[str]) -> None:
    assert account().names(bitmaps) == names


@pytest.mark.parametrize(
    "bitmap",
    ["", "0x", "12", "x-0x1", "0xZZ", "3-0x1", "99-0x1", "0x" + "f" * 30, "6-0x0800", "-1-0x01", "0x1 "],
)
def test_a_bitmap_that_does_not_fit_the_schema_is_an_error(bitmap: str) -> None:
    with pytest.raises(DecodingError):
        account().names([bitmap])


@given(st.sets(st.integers(1, 85)), st.sets(st.integers(0, 10)))
def test_any_bitmap(fields: set[int], members: set[int]) -> None:
    bits = sum(1 << n for n in fields)
    inner = sum(1 << n for n in members)
    all_names = account().fields
    found = account().names([f"0x{bits:x}", f"6-0x{inner:04x}"])
    assert found == [all_names[n - 1] for n in sorted(fields)] + [
        f"ShippingAddress.{ADDRESS[n]}" for n in sorted(members)
    ]


@given(st.binary(max_size=200))
def test_garbage_is_an_error_or_a_whole_event(payload: bytes) -> None:
    try:
        found = account().decode(payload)
    except DecodingError:
        return
    assert "ChangeEventHeader" in found


KINDS: Any = {
    "string": st.text(max_size=200),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "double": st.floats(allow_nan=False),
    "boolean": st.booleans(),
    "bytes": st.binary(max_size=100),
}
NAMED: Any = [
    {"type": "enum", "name": "Kind", "symbols": ["CREATE", "UPDATE"]},
    {"type": "array", "items": "string"},
    {"type": "map", "values": ["null", "long"]},
    {"type": "fixed", "name": "Four", "size": 4},
    {
        "type": "record",
        "name": "Place",
        "fields": [{"name": "n", "type": "int"}, plain("Street"), plain("City")],
    },
]


@settings(max_examples=50)
@given(st.data())
def test_events_are_decoded_as_by_a_decoder_of_any_schema(data: st.DataObject) -> None:
    values: Any = [
        st.sampled_from(["CREATE", "UPDATE"]),
        st.lists(st.text(max_size=20), max_size=80),
        st.dictionaries(st.text(max_size=5), st.none() | KINDS["long"], max_size=5),
        st.binary(min_size=4, max_size=4),
        st.fixed_dictionaries(
            {"Street": st.none() | st.text(), "n": KINDS["int"], "City": st.none() | st.text()}
        ),
    ]
    kinds = [*KINDS.items(), *zip(NAMED, values, strict=True)]
    event: dict[str, Any] = {"ChangeEventHeader": {"entityName": data.draw(st.text())}}
    fields = []
    for n, (kind, some) in enumerate(kinds):
        fields.append({"name": f"F{n}", "type": nullable(kind)})
        event[f"F{n}"] = data.draw(st.none() | some)
        fields.append(plain(f"N{n}"))
    made = schema(fields)
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, made.parsed, event)
    payload = stream.getvalue()
    stream.seek(0)
    expected: Any = fastavro.schemaless_reader(stream, made.parsed, None)
    assert made.decode(payload) == without_nulls(expected)
    for end in {*range(0, len(payload), 1 + len(payload) // 10), len(payload) - 1}:
        with pytest.raises(DecodingError):
            made.decode(payload[:end])


def without_nulls(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event without its fields that have no value; a map keeps them."""
    found = {name: value for name, value in event.items() if value is not None}
    if "F10" in found:
        found["F10"] = {name: value for name, value in found["F10"].items() if value is not None}
    return found


def test_an_event_of_another_version_is_noticed() -> None:
    old, new = schema([plain("A")]), schema([plain("A"), plain("B")])
    stream = io.BytesIO()
    fastavro.schemaless_writer(
        stream, new.parsed, {"ChangeEventHeader": {"entityName": "X"}, "A": "a", "B": "b"}
    )
    assert new.decode(stream.getvalue())["B"] == "b"
    with pytest.raises(DecodingError, match="left over"):
        old.decode(stream.getvalue())


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '"string"', '{"type": "record", "name": "X", "fields": []}']
)
def test_texts_that_are_not_schemas(text: str) -> None:
    with pytest.raises(DecodingError):
        Schema("s", text)


async def test_a_schema_is_fetched_once() -> None:
    asked: list[str] = []

    async def fetch(id: str) -> str:
        asked.append(id)
        return json.dumps({"type": "record", "name": "X", "fields": [HEADER]})

    schemas = Schemas(fetch)
    assert await schemas.get("a") is await schemas.get("a")
    assert asked == ["a"]
    with pytest.raises(DecodingError, match="does not name its schema"):
        await schemas.get("")
