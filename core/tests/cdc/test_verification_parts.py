"""The parts of a verification: bounds, comparisons, samples, the stored shape of rows, shared reports."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime
from math import comb
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimesh import SqliteCDCStore
from dimesh.cdc.row_images import RowState
from dimesh.cdc.verification.bounds import bounds
from dimesh.cdc.verification.comparison import Comparison, Incomparable, Kind, compare
from dimesh.cdc.verification.sampling import sample
from dimesh.cdc.verification.tally import FeedError, Pseudonyms
from dimesh.spi.cdc import Change, Operation


@pytest.mark.parametrize(
    ("found", "draws", "lower", "upper"),
    [
        (0, 10, 0.0, 0.308497),  # the values of R's binom.test
        (1, 10, 0.002529, 0.445016),
        (5, 10, 0.187086, 0.812914),
        (10, 10, 0.691503, 1.0),
        (0, 1_000, 0.0, 0.003682),
        (7, 1_000, 0.002819, 0.014370),
        (0, 0, 0.0, 1.0),
    ],
)
def test_bounds_have_their_known_values(found: int, draws: int, lower: float, upper: float) -> None:
    assert bounds(found, draws) == (pytest.approx(lower, abs=1e-6), pytest.approx(upper, abs=1e-6))


@given(st.integers(1, 200), st.data())
def test_each_bound_leaves_half_of_the_error(draws: int, data: st.DataObject) -> None:
    """At the lower bound, as many hits or more have a probability of 2.5 %; at the upper bound, as many or fewer have."""
    found = data.draw(st.integers(0, draws))
    lower, upper = bounds(found, draws)

    def probability(share: float, hits: range) -> float:
        return sum(comb(draws, k) * share**k * (1 - share) ** (draws - k) for k in hits)

    assert 0 <= lower <= found / draws <= upper <= 1
    if found:
        assert probability(lower, range(found, draws + 1)) == pytest.approx(0.025, abs=1e-6)
    if found < draws:
        assert probability(upper, range(found + 1)) == pytest.approx(0.025, abs=1e-6)


def test_bounds_of_many_draws_are_fast_and_right() -> None:
    lower, upper = bounds(1_000, 1_000_000)
    assert lower < 0.001 < upper
    assert upper - lower == pytest.approx(4 * 0.001**0.5 / 1_000, rel=0.05)


def read(after: dict[str, Any] | None, version: str = "1", **metadata: Any) -> Change:
    operation = Operation.SNAPSHOT if after is not None else Operation.DELETE
    when = datetime(2026, 1, 1, tzinfo=UTC)
    return Change(
        "x", operation, "thing", {"id": 1}, None, after, when, api_version=version, metadata=metadata
    )


def checksum(version: str) -> bytes:
    return crc32(version.encode()).to_bytes(4, "little")


def outcome(published: dict[str, Any] | None, now: dict[str, Any] | None, **more: Any) -> Comparison:
    stored = RowState(
        published, version=checksum(more.pop("version", "1")), unsure=more.pop("cut", ())
    ).pack()
    return compare(
        stored,
        more.pop("exists", True),
        read(now, **more.pop("metadata", {})),
        more.pop("skip", {}),
        more.pop("stamp", None),
    )


@pytest.mark.parametrize(
    ("published", "now", "kind"),
    [
        ({"a": 1}, {"a": 2}, Kind.LOST_UPDATE),
        ({"a": 1}, {"a": True}, Kind.LOST_UPDATE),
        ({"a": 1.5}, {"a": 2}, Kind.LOST_UPDATE),
        ({"a": "x"}, {"a": None}, Kind.LOST_UPDATE),
        ({"a": 1, "b": 2}, {"a": 1}, Kind.LOST_UPDATE),
        ({"a": 1}, {"a": 1, "b": 2}, Kind.DROPPED_FIELD),
        ({"a": 1}, {"a": 1, "b": None}, Kind.DROPPED_FIELD),
        ({"a": [1]}, {"a": [1, 2]}, Kind.CUT_LIST),
        ({"a": [2]}, {"a": [1]}, Kind.LOST_UPDATE),
        (
            {"a": {"data": [1], "has_more": False}},
            {"a": {"data": [1, 2], "has_more": False}},
            Kind.CUT_LIST,
        ),
        ({"a": 1}, None, Kind.LOST_DELETE),
        ({"a": 2**70}, {"a": 2**70 + 1}, Kind.LOST_UPDATE),
    ],
)
def test_the_kind_of_a_difference(published: dict[str, Any], now: dict[str, Any] | None, kind: Kind) -> None:
    found = outcome(published, now).difference
    assert found is not None
    assert found.kind is kind


@pytest.mark.parametrize("row", [{"a": 1}, {"a": {"b": [1, {"c": None}]}}, {"a": 2**70}, {"a": (1, 2)}, {}])
def test_equal_rows_are_equal(row: dict[str, Any]) -> None:
    assert outcome(row, dict(reversed(row.items()))) == Comparison()


def test_one_and_one_point_zero_are_the_same_number() -> None:
    assert outcome({"a": 1}, {"a": 1.0}) == Comparison()


def test_a_field_that_differs_while_the_time_of_the_last_change_is_equal_is_stale() -> None:
    found = outcome({"a": 1, "at": 5}, {"a": 2, "at": 5}, stamp="at").difference
    assert found is not None
    assert found.kind is Kind.STALE_FIELD


def test_what_cannot_be_compared_is_left_out_with_its_reason() -> None:
    assert outcome({"a": 1}, {"a": 2}, version="0").incomparable is Incomparable.VERSION
    assert outcome(None, {"a": 2}).incomparable is Incomparable.KEY_ONLY
    assert compare(None, True, read({"a": 1}), {}, None).incomparable is Incomparable.KEY_ONLY
    assert compare(None, True, None, {}, None).incomparable is Incomparable.UNANSWERED
    for more in ({"skip": {"a": "a formula"}}, {"cut": ("a",)}, {"metadata": {"cut": ["a"]}}):
        found = outcome({"a": 1, "b": 1}, {"a": 2, "b": 1}, **more)
        assert (found.difference, found.skipped) == (None, ("a",))


def test_only_what_differs_in_the_same_way_twice_persists() -> None:
    first = outcome({"a": 1, "b": 1}, {"a": 2, "b": 2}).difference
    later = outcome({"a": 1, "b": 1}, {"a": 2, "b": 3}).difference
    changed = outcome({"a": 5, "b": 5}, {"a": 2, "b": 3}).difference
    assert first is not None
    assert later is not None
    assert changed is not None
    persisting = first.persisting(later)
    assert persisting is not None
    assert list(persisting.fields) == ["a"]
    assert first.persisting(changed) is None


@given(
    st.dictionaries(st.text(max_size=3), st.integers() | st.none()),
    st.text(max_size=20),
    st.lists(st.text(max_size=5), max_size=3),
)
def test_a_stored_row_keeps_its_shape(row: dict[str, Any], version: str, cut: list[str]) -> None:
    state = RowState(row or None, b"12345678" * 4, 5.5, checksum(version) if version else b"", tuple(cut))
    assert RowState.unpack(state.pack()) == state


def test_rows_of_earlier_releases_are_read() -> None:
    """They had a boolean in the place of the flags, and no shape."""
    import struct

    head = struct.pack("<d?32s", 5.5, True, bytes(32))
    assert RowState.unpack(head + b'{"a":1}') == RowState({"a": 1}, bytes(32), 5.5)


async def test_every_stored_row_has_the_same_chance(tmp_path: Path) -> None:
    store = SqliteCDCStore(tmp_path / "cdc.db")
    keys = [f"k{n:02}" for n in range(20)]
    await store.mark_seen("s", keys, 1)
    await store.mark_seen("other", ["x"], 1)
    rng = random.Random(5)
    counts: Counter[str] = Counter()
    for _ in range(400):
        chosen = await sample(store, "s", 5, rng)
        assert len(set(chosen)) == 5
        counts.update(chosen)
    assert set(counts) == set(keys)
    assert all(60 < count < 140 for count in counts.values())  # 100 each; the bounds are 4.6 deviations away
    assert sorted(await sample(store, "s", 100, rng)) == keys
    await store.close()


async def test_the_store_tells_existing_rows_from_others(tmp_path: Path) -> None:
    store = SqliteCDCStore(tmp_path / "cdc.db")
    await store.mark_seen("s", ["key only"], 1)
    await store.stage("s", 1, {"row": b"state", "gone": b"state"}, [], 1, {})
    await store.stage("s", 2, {}, ["gone"], 1, {"gone": b"state"})
    assert await store.existing("s", ["key only", "row", "gone", "never"]) == {
        "key only": None,
        "row": b"state",
    }
    assert await store.keys("s", "", 10) == ["key only", "row"]
    assert await store.keys("s", "key only", 10) == ["row"]
    await store.close()


def test_a_shared_report_names_no_row() -> None:
    error = FeedError('{"id": "cus_1"}', Kind.LOST_UPDATE, ("name",))
    first, second = Pseudonyms(), Pseudonyms()
    (one, again) = first.errors([error, error], "billing")
    assert one == again
    assert one["fields"] == ["name"]
    assert "cus_1" not in str(one)
    assert one["row"] != second.errors([error], "billing")[0]["row"]
