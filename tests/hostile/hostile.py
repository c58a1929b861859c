"""Shared parts of the hostile-input tests: the number of cases, hostile text and bytes, and the rule for error messages."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from datetime import UTC
from typing import Any
from zlib import crc32

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from dimesh import Event, EventBus, EventMetadata, EventPriority, StartAt, SubscriptionOptions
from dimesh.bus.redrive import DeadLetters
from dimesh.errors import DimeshError, TopicNotFoundError
from dimesh.spi.bus import Record

# -- number of cases --------------------------------------------------------------------------------------------


def amounts(quick: int, full: int) -> pytest.MarkDecorator:
    """Return the parameter ``cases``: a few hundred normally, the full number in slow tests."""
    return pytest.mark.parametrize(
        "cases",
        [
            pytest.param(quick, id=f"{quick}"),
            pytest.param(full, id=f"{full}", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
        ],
    )


def try_all(cases: int, check: Callable[..., object], **strategies: st.SearchStrategy[Any]) -> None:
    """Call ``check`` with that many generated values, and verify the count. Each test has its own values, which are the same
    in every run.
    """
    calls = 0

    def counted(**values: Any) -> None:
        nonlocal calls
        calls += 1
        check(**values)

    test = os.environ.get("PYTEST_CURRENT_TEST", "")
    ready = seed(crc32(test.encode("utf-8", "replace")))(given(**strategies)(counted))
    settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )(ready)()
    assert calls >= cases, f"only {calls} of {cases} cases were generated"


def gathered(cases: int, values: st.SearchStrategy[Any]) -> list[Any]:
    """Return that many generated values, for a bus that handles all of them in one run."""
    found: list[Any] = []

    def keep(value: Any) -> None:
        found.append(value)

    try_all(cases, keep, value=values)
    return found


def refused(error: DimeshError, limit: int = 2_000) -> None:
    """Check that an error message is readable, and short even for long input."""
    text = str(error)
    assert text.strip(), f"{type(error).__name__} without a message"
    assert len(text) < limit, f"{type(error).__name__} with {len(text)} characters"
    text.encode("utf-8")  # it can be logged


# -- bytes -----------------------------------------------------------------------------------------------

FRAGMENTS = [
    b"\x00", b"\xff", b"\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xc1", b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff", b"\x9f", b"\xcf" + b"\xff" * 8, b"\xd7\xff" + b"\x7f" * 8, b"\x91" * 2_000, b"NaN",
    b"-Infinity", b"1e999", b'"\\ud800"', b"[" * 10_000, b'{"a":' * 5_000, b"9" * 5_000, b'"a":1,"a":2,', b"\r\n",
    b"\xe2\x80\xae", b"%00", b"%ff", b"\x1b[2J", b"../", b",", b"}", b'"', b"null", b"true", b"\\", b"\\u0000",
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, source: st.SearchStrategy[bytes]) -> bytes:
    """Return damaged bytes: valid ones that were flipped, cut, extended, duplicated, or spliced with others."""
    data = bytearray(draw(source))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(("flip", "replace", "cut", "insert", "delete", "double", "splice")))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "replace" and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = draw(st.sampled_from(FRAGMENTS) | st.binary(max_size=12))
        elif kind == "delete":
            del data[at : at + draw(st.integers(1, 8))]
        elif kind == "double":
            data[at:at] = data[max(at - draw(st.integers(1, 40)), 0) : at]
        elif kind == "splice":
            data[at:] = draw(source)[draw(st.integers(0, 60)) :]
    return bytes(data)


# -- text ------------------------------------------------------------------------------------------------

PIECES = [
    "..", "../escape", "..\\escape", "/", "\\", "/etc/passwd", "~", "$HOME", "%2e%2e%2f", "C:\\x", "con", "nul",
    "\0", "\r\n", "\n", "\t", "\x1b[2J", "\x7f", "\x85", "\u2028", "\ufeff", "\u202e", "\u2066", "\u200b", "\u200d",
    "\N{PILE OF POO}", "\N{FAMILY}\u200d\N{GIRL}", "e\u0301", "\u00e9", "\u0130", "\u00df", "\U0010ffff", "\ufffe",
    "\ud800", "\udfff", "\udc80", "x" * 10_000, "y" * 256, "\N{PILE OF POO}" * 300, "'; DROP TABLE records; --", '"',
    "'", "`", "<script>", "${HOME}", "{0.__class__}", "%s%n", "*", "?", ":", "|", ".dlq", ".", "-", "--", "_", "a",
    "A", "0", "orders", "t", " ", "", "null", "NaN", "system.undecodable", "event.custom", "\N{ARABIC LETTER ALEF}",
]  # fmt: skip

hostile_text = (
    st.sampled_from(PIECES)
    | st.lists(st.sampled_from(PIECES), max_size=4).map("".join)
    | st.text(st.characters(exclude_categories=()), max_size=30)
    | st.text("abz.-_:@09/\\", max_size=12)
)
"""Text that is hostile as a name, value or argument."""


# -- events ----------------------------------------------------------------------------------------------

_fair_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
_ids = (
    st.sampled_from(("1", "order-7", "0" * 32, "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"))
    | _fair_text
)
_header_names = st.sampled_from(
    ("ce-foreign", "traceparent", "dimesh-dlq-reason", "dimesh-dlq-raw-header", "dimesh-redrives", "x")
) | _fair_text.filter(bool)

some_metadata = st.builds(
    EventMetadata,
    event_id=_ids.filter(bool),
    trace_id=_ids,
    span_id=st.none() | _ids,
    parent_span_id=st.none() | _ids,
    source_pillar=st.sampled_from(("Growth Engine", "")) | _fair_text,
    source_agent=_fair_text,
    target_pillar=st.none() | _fair_text,
    target_agent=st.none() | _fair_text,
    timestamp=st.datetimes(timezones=st.just(UTC)),
    priority=st.sampled_from(EventPriority),
    correlation_id=st.none() | _ids,
    causation_id=st.none() | _ids,
    tags=st.dictionaries(_fair_text, _fair_text, max_size=3),
)
some_events = st.builds(
    Event,
    st.sampled_from(("custom", "deal.won", "acme.order.created", "system.undecodable", "system.redriven")),
    some_metadata,
    st.sampled_from(({"n": 1}, None, "text", [1.5, True, {"k": "\N{SNOWMAN}"}])),
    st.sampled_from(("1.0.0", "2", "next")),
    headers=st.dictionaries(_header_names, _fair_text | st.binary(max_size=8), max_size=3),
)
"""Valid events of many shapes, which the mutations start from."""


# -- the bus ---------------------------------------------------------------------------------------------


async def sort_out(
    bus: EventBus, records: Sequence[Record], handle: Callable[[Event], object]
) -> tuple[list[bytes], list[Event]]:
    """Append these records and have a group handle them.

    Return the handled payloads and the dead letters, once every record is in one of the two.
    """
    handled: list[bytes] = []

    async def handler(event: Event) -> None:
        handle(event)
        handled.append(event.data)

    async with bus, asyncio.timeout(100):
        await bus.subscribe(
            "t",
            handler,
            "g",
            start=StartAt.EARLIEST,
            # Damaged headers often share an id, and no record may be dropped as a duplicate of another.
            options=SubscriptionOptions(dedup_window=0, concurrency=64),
        )
        for first in range(0, len(records), 100):
            await bus.door._backend.append("t", records[first : first + 100])
        await bus.idle()
        stats = bus.stats()["g"]
        try:
            entries = await DeadLetters(bus).entries("t")
        except TopicNotFoundError:
            entries = []
        assert stats.received == len(records)
        assert stats.duplicates == 0
        assert stats.handled == len(handled)
        assert stats.dead_lettered == len(entries)
        assert stats.handled + stats.dead_lettered + stats.skipped == len(records)
        return handled, [entry.event for entry in entries]
