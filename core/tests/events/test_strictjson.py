from __future__ import annotations

import json
import math
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimesh.errors import PayloadError
from dimesh.events import strictjson
from dimesh.events.types import EventType

text = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=20,
)


class Colour(Enum):
    RED = "red"


class Size(IntEnum):
    BIG = 3


class Word(str):
    __slots__ = ()


class Number(int):
    def __repr__(self) -> str:
        return "not a number"


class Real(float):
    def __repr__(self) -> str:
        return "not a number"


@dataclass
class Point:
    x: int


def same(one: Any, other: Any) -> bool:
    """Return whether two values are equal and of the same types: 1, 1.0 and True are different."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return bool(one == other)


@given(values)
def test_round_trip_and_agreement_with_the_standard_library(value: Any) -> None:
    data = strictjson.dumps(value)
    assert same(strictjson.loads(data), value)
    assert same(json.loads(data), value)
    assert same(strictjson.loads(data.decode()), value)


@given(values, st.booleans(), st.sampled_from([None, 1]))
def test_decodes_what_the_standard_library_encodes(value: Any, ascii_only: bool, indent: int | None) -> None:
    assert same(strictjson.loads(json.dumps(value, ensure_ascii=ascii_only, indent=indent)), value)


@given(st.binary() | st.text(alphabet='{}[]",:0123456789eE+-.truefalsn\\ud8 \n').map(str.encode))
def test_any_bytes_are_decoded_like_the_standard_library_or_refused(data: bytes) -> None:
    try:
        value = strictjson.loads(data)
    except PayloadError:
        assert not strictjson.is_strict(data)
        return
    assert strictjson.is_strict(data)
    assert same(value, json.loads(data))


@pytest.mark.parametrize("value", [2**200, -(2**200), 2**63, 2**64, 2**64 - 1, -(2**63), 10**4_299, 0, -1])
def test_integers_are_exact(value: int) -> None:
    assert strictjson.loads(strictjson.dumps({"n": [value]})) == {"n": [value]}


def test_a_decimal_point_is_kept() -> None:
    assert strictjson.dumps([1.0, 1, True, -0.0]) == b"[1.0,1,true,-0.0]"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ((1, (2,)), [1, [2]]),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (Word("w"), "w"),
        ({Word("k"): Word("v")}, {"k": "v"}),
        (Number(7), 7),
        (Real(1.5), 1.5),
        (Size.BIG, 3),
        ({"t": EventType.DEAL_WON}, {"t": "deal.won"}),
        ({EventType.DEAL_WON: 1}, {"deal.won": 1}),
    ],
)
def test_subclasses_are_encoded_as_their_value(value: Any, written: Any) -> None:
    assert same(strictjson.loads(strictjson.dumps(value)), written)


def cyclic_list() -> list[Any]:
    value: list[Any] = [1]
    value.append(value)
    return value


def cyclic_dict() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = {"inner": value}
    return value


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        [{"a": -math.inf}],
        Real("nan"),
        "\ud800",
        {"\udfff": 1},
        ["ok", {"k": "x\ud800"}],
        {1: "a"},
        {"a": {None: 1}},
        {True: 1},
        {1.5: 1},
        {(1, 2): 1},
        b"bytes",
        bytearray(b"x"),
        {1, 2},
        frozenset({"a"}),
        datetime(2026, 1, 1, tzinfo=UTC),
        Decimal("1.1"),
        Colour.RED,
        Point(1),
        object(),
        cyclic_list(),
        cyclic_dict(),
        nested(201),
        10**5_000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_json_cannot_represent_are_refused(value: Any) -> None:
    for wrapped in (value, [value], {"deep": [{"er": value}]}):
        with pytest.raises(PayloadError):
            strictjson.dumps(wrapped)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b'{"a":1,"a":1}',
        b'{"x":{"a":1,"b":2,"a":3}}',
        b'{"a":1,"\\u0061":2}',
        b"1e400",
        b"[-1e400]",
        b'"\\ud800"',
        b'["\\udc00\\ud800"]',
        b'{"\\ud800":1}',
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b"\xef\xbb\xbf[]",
        b"[1,]",
        b"{'a':1}",
        b"01",
        b"[1] [2]",
        b'"a\nb"',
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b"[" * 201 + b"]" * 201,
        b'[{"a":' * 101 + b"1" + b"}]" * 101,
        b"[" * 1_000_000,
        b"1" * 5_000,
    ],
    ids=lambda data: repr(data)[:24],
)
def test_data_that_is_not_strict_json_is_refused(data: bytes) -> None:
    with pytest.raises(PayloadError) as caught:
        strictjson.loads(data)
    assert len(str(caught.value)) < 200
    assert not strictjson.is_strict(data)


def test_nesting_up_to_the_limit_passes() -> None:
    assert strictjson.loads(strictjson.dumps(nested(200))) == nested(200)
    wide = [[] for _ in range(5_000)]
    assert strictjson.loads(strictjson.dumps(wide)) == wide
    brackets = "[{" * 5_000
    assert strictjson.loads(strictjson.dumps([brackets])) == [brackets]


@pytest.mark.parametrize("data", [None, 3, 10**12, ["[]"], {}])
def test_only_text_is_decoded(data: Any) -> None:
    with pytest.raises(PayloadError, match="str or bytes"):
        strictjson.loads(data)
