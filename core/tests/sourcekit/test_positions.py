"""Positions as bytes, and the bytes that are not positions."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimesh.errors import SourcePositionLostError
from dimesh.sourcekit.positions import PositionCodec


class Position(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    cursor: str
    recent: list[int] = []


CODEC = PositionCodec(Position, "Acme")


@given(st.text(), st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_a_position_survives(cursor: str, recent: list[int]) -> None:
    encoded = CODEC.encode(Position(cursor, recent))
    assert CODEC.decode(encoded, "invoice") == Position(cursor, recent)
    assert encoded.decode()  # the runner stores positions as text


def test_a_position_without_a_version_is_of_version_1() -> None:
    assert CODEC.decode(b'["c7",[1]]', "invoice") == Position("c7", [1])
    with pytest.raises(SourcePositionLostError, match="has version 1 of the Acme source's format"):
        PositionCodec(Position, "Acme", version=2).decode(b'["c7",[1]]', "invoice")


@pytest.mark.parametrize("old", [CODEC.encode(Position("c7")), b"3:[]"])
def test_a_position_of_another_version_is_lost(old: bytes) -> None:
    with pytest.raises(SourcePositionLostError, match="this position of invoice has version"):
        PositionCodec(Position, "Acme", version=2).decode(old, "invoice")


@given(st.binary())
def test_other_bytes_are_lost_positions(data: bytes) -> None:
    try:
        CODEC.decode(data, "invoice")
    except SourcePositionLostError as error:
        assert "this position of invoice" in str(error)


@pytest.mark.parametrize(
    "data", [b"", b"1:", b"1:[]", b"1:[7]", b"1:{}", b'1:["c7"] ]', b"\xff", b"nonsense"]
)
def test_the_error_names_the_object_and_the_source(data: bytes) -> None:
    with pytest.raises(SourcePositionLostError) as failed:
        CODEC.decode(data, "invoice")
    assert str(failed.value).startswith("this position of invoice does not come from the Acme source")
