"""Invalid payloads: strict JSON, a typed error, or a dead letter with the same bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st

from dimesh import Event, EventBus, EventMetadata
from dimesh.bus.redrive import DeadLetters
from dimesh.errors import EventError, PayloadError
from dimesh.events.codec import encode_header
from dimesh.events.fields import MAX_PAYLOAD
from dimesh.spi.bus import Record

from .hostile import amounts, gathered, hostile_text, mutated, refused, some_events, sort_out, try_all

GOOD_HEADER = encode_header(Event("custom", EventMetadata(source_agent="a"), None))

# -- values ----------------------------------------------------------------------------------------------

leaves: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from((2**63, 2**64, -(2**63) - 1, 10**400, -0.0, 5e-324, 1.7976931348623157e308))
    | st.floats()
    | hostile_text
)
not_json: st.SearchStrategy[Any] = st.sampled_from(
    (object(), b"bytes", 1j, {1, 2}, Ellipsis, float("nan"), "\ud800", print)
)


def nested(leaf: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaf,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=12,
    )


values = nested(leaves, hostile_text) | nested(
    leaves | not_json, hostile_text | st.integers() | st.none() | st.booleans()
)


@amounts(83, 1_000)
def test_any_value_is_a_payload_or_a_payload_error(cases: int) -> None:
    def check(value: Any) -> None:
        try:
            event = Event("custom", None, value)
        except PayloadError as error:
            refused(error)
            return
        assert event.payload == value
        assert repr(event.payload) == repr(value)  # 1 is not True, and -0.0 not 0.0
        assert Event.from_json(event.to_json()).data == event.data

    try_all(cases, check, value=values)


# -- text ------------------------------------------------------------------------------------------------

json_texts = mutated(nested(leaves, hostile_text).map(lambda value: json.dumps(value).encode()))
event_texts = mutated(some_events.map(lambda event: event.to_json().encode()))


@amounts(83, 1_000)
def test_any_text_is_an_event_or_an_event_error(cases: int) -> None:
    def check(text: bytes) -> None:
        try:
            event = Event.from_json(text)
        except EventError as error:
            refused(error)
            return
        assert Event.from_json(event.to_json()) == event

    try_all(cases, check, text=event_texts | json_texts | st.binary(max_size=60))


def strict(data: bytes) -> bool:
    """Return whether the standard library, configured to be strict, accepts a payload; an empty one is valid."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("twice")
        return dict(pairs)

    def finite(text: str) -> float:
        if float(text) in (float("inf"), float("-inf")):
            raise ValueError("too large")
        return float(text)

    def never(name: str) -> None:
        raise ValueError(name)

    if not data:
        return True
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=once, parse_float=finite, parse_constant=never
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        return False
    return depth(value) <= 200


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@amounts(66, 1_000)
@pytest.mark.slow
def test_a_handler_that_reads_the_payload_gets_it_or_leaves_the_same_bytes(
    cases: int, make_bus: Callable[[], EventBus]
) -> None:
    payloads = gathered(cases, json_texts | st.binary(max_size=40))
    records = [
        Record.stored(GOOD_HEADER, data, f"key {n % 50}", "custom", "", "normal")
        for n, data in enumerate(payloads)
    ]
    handled, letters = asyncio.run(sort_out(make_bus(), records, lambda event: event.payload))
    assert sorted(handled) == sorted(filter(strict, payloads))
    assert sorted(event.data for event in letters) == sorted(data for data in payloads if not strict(data))
    for event in letters:
        assert event.event_type == "custom"
        assert str(event.headers["dimesh-dlq-reason"]).startswith("PayloadError: ")
        assert event.headers["dimesh-dlq-attempts"] == "1"  # a retry cannot succeed


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
).map(lambda value: json.dumps(value, ensure_ascii=False).encode())
"""Texts that are JSON for sure: of the others, hardly any is."""


@amounts(33, 500)
def test_what_is_published_arrives_with_the_same_bytes(cases: int, make_bus: Callable[[], EventBus]) -> None:
    found: list[Event] = []

    def check(text: bytes) -> None:
        try:
            found.append(Event.from_json(b'{"event_type": "custom", "payload": ' + text + b"}"))
        except EventError as error:
            refused(error)

    try_all(cases, check, text=json_texts | json_values)

    async def run() -> list[Event]:
        got: list[Event] = []

        async def handler(event: Event) -> None:
            event.payload  # noqa: B018 - an accepted event can be read
            got.append(event)

        async with make_bus() as bus:
            await bus.subscribe("t", handler, "g")
            for first in range(0, len(found), 50):
                await bus.publish_many("t", found[first : first + 50])
            await bus.idle()
            assert bus.stats()["g"].failed == 0
        return got

    assert asyncio.run(run()) == found
    assert len(found) > cases // 20


# -- the extremes ----------------------------------------------------------------------------------------


def tower(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def topple(value: list[Any]) -> None:
    """Free a nested list level by level: Python's own deallocation would need as many frames."""
    while value:
        value = value.pop()


def test_ten_thousand_levels_are_refused_at_every_entrance() -> None:
    value = tower(10_000)
    with pytest.raises(PayloadError, match="deeper than 200"):
        Event("custom", None, value)
    topple(value)
    for text in ("[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000, "[" * 10_000):
        with pytest.raises(EventError) as caught:
            Event.from_json('{"event_type": "custom", "payload": ' + text + "}")
        refused(caught.value)
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(PayloadError, match="contains itself"):
        Event("custom", None, circle)


@pytest.mark.parametrize(
    "make",
    [lambda: 10**5_000, lambda: {10**5_000: 1}, lambda: [Unspeakable()], lambda: {Unspeakable(): 1}],
    ids=["integer", "integer as key", "object", "object as key"],
)
def test_a_value_without_a_repr_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(PayloadError) as caught:
        Event("custom", None, make())
    refused(caught.value)
    for field in ("source_agent", "event_id", "tags", "priority", "timestamp"):
        with pytest.raises(EventError) as other:
            EventMetadata(**{field: make()})
        refused(other.value)
    with pytest.raises(EventError):
        Event(make(), None, None)


class Unspeakable:
    def __repr__(self) -> str:
        raise ValueError("not to be shown")


EXTREMES = {
    "deep": b"[" * 10_000 + b"]" * 10_000,
    "deeper": b'{"a":' * 100_000,
    "ten megabytes that are no JSON": b"\xff" * 10_000_000,
    "NaN": b'{"x": NaN}',
    "Infinity": b"[-Infinity]",
    "too large": b"1e999",
    "surrogate": b'{"x": "\\udc00"}',
    "surrogate as bytes": b'"\xed\xa0\x80"',
    "twice": b'{"a": 1, "a": 1}',
    "twice, escaped": b'{"a": 1, "\\u0061": 2}',
    "5,000 digits": b"9" * 5_000,
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "NUL": b"\x00",
    "blank": b"   ",
    "two values": b"{} {}",
    "latin-1": b'"\xe9"',
}


async def test_extreme_payloads_become_dead_letters_byte_for_byte(make_bus: Callable[[], EventBus]) -> None:
    records = [
        Record.stored(GOOD_HEADER, data, name, "custom", "", "normal") for name, data in EXTREMES.items()
    ]
    handled, letters = await sort_out(make_bus(), records, lambda event: event.payload)
    assert handled == []
    assert {event.headers["dimesh-dlq-key"]: event.data for event in letters} == EXTREMES


@pytest.mark.slow
async def test_large_payloads_arrive_whole(make_bus: Callable[[], EventBus]) -> None:
    text = "\N{SNOWMAN}" * 3_400_000  # 10 MB
    whole = [Event("custom", None, {"text": text}), Event("custom", None, list(range(10**6)))]
    whole.append(Event("custom", None, 10**4_299))
    got: list[Event] = []

    async def handler(event: Event) -> None:
        got.append(event)

    async with make_bus() as bus:
        await bus.subscribe("t", handler, "g")
        for event in whole:
            await bus.publish("t", event)
        await bus.idle()
    assert got == whole
    assert got[0].payload == {"text": text}
    assert got[2].payload == 10**4_299


async def test_a_payload_beyond_the_limit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(PayloadError, match="store it elsewhere"):
        Event("custom", None, "x" * MAX_PAYLOAD)


@pytest.mark.parametrize("blame", ["\ud800 \0 \x1b[2J", "x" * 1_000_000, "\N{PILE OF POO}" * 10_000])
async def test_a_handler_that_fails_with_hostile_words_leaves_a_dead_letter(
    make_bus: Callable[[], EventBus], blame: str
) -> None:
    async def handler(event: Event) -> None:
        raise PayloadError(blame)

    async with make_bus() as bus:
        await bus.subscribe("t", handler, "g")
        sent = Event("custom", None, {"n": 1})
        await bus.publish("t", sent)
        await bus.idle()
        (entry,) = await DeadLetters(bus).entries("t")
    assert entry.event.data == sent.data
    assert 0 < len(entry.reason) < 600
