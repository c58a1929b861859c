"""Frames, against bytes that other serializers made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimesh.errors import CodecError
from dimesh_confluent import wire

ROOT: Final = Path(__file__).resolve().parents[3]
HOME: Final = Path(os.environ.get("CONFORMANCE_DATA", ROOT.parent / "shared" / "conformance"))
FILE: Final = HOME / "registry-vectors.json"
RECORDED: Final[dict[str, Any]] = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
GUID = "01234567-89ab-cdef-fedc-ba9876543210"
indexes = st.lists(st.integers(0, wire.MAX_INDEX), min_size=1, max_size=wire.MAX_DEPTH).map(tuple)


def test_the_recorded_frames_are_at_hand() -> None:
    if not RECORDED:
        assert os.environ.get("CI", "").lower() not in ("1", "true"), f"{FILE} is missing"
        pytest.skip(f"NOT TESTED: {FILE} is missing")


@pytest.mark.parametrize("frame", RECORDED.get("frames", ()), ids=lambda f: f.get("bytes") or f.get("header"))
def test_frames_are_written_and_read_as_recorded(frame: dict[str, Any]) -> None:
    path = frame.get("index")
    indexed = path is not None
    if "guid" in frame:
        expected = bytes.fromhex(frame["header"])
        assert wire.header(frame["guid"], path) == expected
        found = wire.read_header(expected, indexed=indexed)
        assert found.guid == frame["guid"]
    else:
        expected = bytes.fromhex(frame["bytes"])
        assert wire.prefix(frame["id"], path) == expected
        found = wire.read_prefix(expected + b"body", indexed=indexed)
        assert (found.schema_id, found.size) == (frame["id"], len(expected))
    assert found.indexes == tuple(path or [0])


@pytest.mark.parametrize(
    "one", RECORDED.get("serialized", ()), ids=lambda one: f"{one['kind']}-{one['name']}-{one['wire']}"
)
def test_serialized_payloads_are_framed_as_recorded(one: dict[str, Any]) -> None:
    """The frame is what we write for the schema, and the rest is the payload in the schema's own language."""
    data = bytes.fromhex(one["bytes"])
    indexed = one["kind"] == "PROTOBUF"
    if one["wire"] == "header":
        ((name, value),) = one["headers"]
        assert name == (wire.KEY_HEADER if one["field"] == "key" else wire.VALUE_HEADER)
        found = wire.read_header(bytes.fromhex(value), indexed=indexed)
        assert found.guid == one["guid"]
        assert wire.header(one["guid"], found.indexes if indexed else None).hex() == value
        body = data
    else:
        found = wire.read_prefix(data, indexed=indexed)
        assert found.schema_id == one["id"]
        assert wire.prefix(one["id"], found.indexes if indexed else None) == data[: found.size]
        body = data[found.size :]
    if one["kind"] == "JSON":
        assert json.loads(body) == one["value"]
    elif one["kind"] == "AVRO" and one["name"] in (
        "record",
        "record_neg_empty",
        "record_key",
        "long",
        "string",
    ):
        from io import BytesIO

        assert fastavro.schemaless_reader(BytesIO(body), json.loads(one["schema"]), None) == one["value"]


@given(st.integers(1, wire.MAX_ID), st.none() | indexes, st.binary(max_size=20))
def test_prefixes_are_read_back(schema_id: int, path: tuple[int, ...] | None, body: bytes) -> None:
    head = wire.prefix(schema_id, path)
    found = wire.read_prefix(head + body, indexed=path is not None)
    assert (found.schema_id, found.guid, found.indexes) == (schema_id, None, path or (0,))
    assert (head + body)[found.size :] == body


@given(st.uuids(), st.none() | indexes)
def test_headers_are_read_back(guid: Any, path: tuple[int, ...] | None) -> None:
    found = wire.read_header(wire.header(str(guid), path), indexed=path is not None)
    assert (found.schema_id, found.guid, found.indexes) == (None, str(guid), path or (0,))


@given(st.binary(max_size=40), st.booleans())
def test_any_bytes_are_a_frame_or_an_error(data: bytes, indexed: bool) -> None:
    for read in (wire.read_prefix, wire.read_header):
        try:
            found = read(data, indexed=indexed)
        except CodecError:
            continue
        assert found.size <= len(data)
        assert (found.schema_id is None) != (found.guid is None)
        assert all(index >= 0 for index in found.indexes)


def test_both_magic_bytes_are_legal_in_both_places() -> None:
    assert wire.read_prefix(wire.header(GUID) + b"x").guid == GUID
    assert wire.read_header(wire.prefix(7)).schema_id == 7


def test_the_long_form_of_the_first_message_is_read() -> None:
    assert wire.read_prefix(bytes.fromhex("00000000030200082a"), indexed=True).indexes == (0,)


@pytest.mark.parametrize(
    ("data", "indexed"),
    [
        ("", False),
        ("00000001", False),
        ("0000000000", False),
        ("0080000000", False),
        ("05000000010254", False),
        ("01161fe0", False),
        ("0000000001", True),  # no path
        ("000000000101", True),  # a path of -1 indexes
        ("00000000010201", True),  # the index -1
        ("0000000001feffffff0f00", True),  # a path of a thousand million indexes
        ("0000000001ffffffffffffff", True),
    ],
)
def test_what_is_no_frame_is_refused(data: str, indexed: bool) -> None:
    with pytest.raises(CodecError) as caught:
        wire.read_prefix(bytes.fromhex(data), indexed=indexed)
    assert caught.value.permanent


@pytest.mark.parametrize("number", [0, -1, 2**31])
def test_ids_that_some_clients_cannot_read_are_not_written(number: int) -> None:
    with pytest.raises(CodecError):
        wire.prefix(number)


@pytest.mark.parametrize("path", [(), (-1,), (2**31,), (0,) * 101])
def test_paths_out_of_range_are_not_written(path: tuple[int, ...]) -> None:
    with pytest.raises(CodecError):
        wire.prefix(1, path)


def test_a_registry_without_guids_is_named() -> None:
    with pytest.raises(CodecError, match="prefix form"):
        wire.header("")
