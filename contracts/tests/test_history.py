"""The checker finds each kind of planted violation, and none in a correct history."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dimesh import Event, EventBus, EventBusFactory, RetryPolicy, StartAt, SubscriptionOptions
from dimesh.backends.bus.memory import MemoryBackend, MemoryOptions
from dimesh.clock import SystemClock
from dimesh_contracts.history import Entry, History, Kind, RecordingBackend, check, read
from dimesh_contracts.history.entries import (
    Acknowledged,
    Assigned,
    CommitBegun,
    Crashed,
    DeadLettered,
    Delivered,
    Handled,
    Left,
    PublishBegun,
    Refused,
    Subscribed,
    encode,
)


def published(number: int, key: str = "k") -> list[Entry]:
    return [
        PublishBegun("p", "t", [f"e{number}"], [key], [f"d{number}"]),
        Acknowledged("p", "t", [f"e{number}"], [(0, number)]),
    ]


def handled(number: int, process: str = "c", key: str = "k") -> list[Entry]:
    return [
        Delivered(process, "t", "g", f"e{number}", key, f"d{number}", 0, number),
        Handled(process, "t", "g", f"e{number}"),
    ]


def committed(offset: int) -> Entry:
    return CommitBegun("c", "t", "g", {0: offset})


BEGIN: list[Entry] = [Assigned("c", "t", "g", {0: 0}), Subscribed("c", "t", "g")]
GOOD: list[Entry] = [
    *BEGIN,
    *published(0),
    *published(1),
    *handled(0),
    *handled(1),
    committed(2),
    *published(2, "other"),
    *handled(2, key="other"),
    committed(3),
]


def kinds(history: list[Entry], **options: object) -> set[Kind]:
    return {violation.kind for violation in check(history, complete=True, **options)}  # type: ignore[arg-type]


def test_a_good_history() -> None:
    assert check(GOOD, complete=True, repeats_per_interruption=0) == []


@pytest.mark.parametrize(
    ("history", "kind"),
    [
        ([e for e in GOOD if e not in handled(1) and not isinstance(e, CommitBegun)], Kind.LOST),
        ([*BEGIN, *published(0), *published(1), *handled(1), *handled(0)], Kind.ORDER),
        ([*BEGIN, *published(0), *published(1), *handled(0), committed(2), *handled(1)], Kind.COMMIT_AHEAD),
        ([*BEGIN, *published(0), committed(1), *handled(0)], Kind.COMMIT_AHEAD),
        ([*GOOD, *handled(0)], Kind.DUPLICATE),
        ([*GOOD, Crashed("another"), *handled(0)], Kind.DUPLICATE),
        ([*GOOD, Left("c", "t", "g", [1]), *handled(0)], Kind.DUPLICATE),
        ([*GOOD, Left("c", "t", "another", []), *handled(0)], Kind.DUPLICATE),
        ([*BEGIN, *published(0), Delivered("c", "t", "g", "e9", "k", "d0", 0, 9), *handled(0)], Kind.CHANGED),
        (
            [*BEGIN, *published(0), Delivered("c", "t", "g", "e0", "k", "cut", 0, 0), *handled(0)],
            Kind.CHANGED,
        ),
        ([*BEGIN, *published(0), Delivered("c", "t", "g", "e0", "K", "d0", 0, 0), *handled(0)], Kind.CHANGED),
        (
            [*BEGIN, PublishBegun("p", "t", ["e0"], ["k"], ["d0"]), Refused("p", "t", ["e0"]), *handled(0)],
            Kind.REFUSED_DELIVERED,
        ),
        (
            [
                *BEGIN,
                *published(0),
                PublishBegun("p", "t", ["e1"], ["k"], ["d1"]),
                Acknowledged("p", "t", ["e1"], [(0, 0)]),
                *handled(0),
                Handled("c", "t", "g", "e1"),
            ],
            Kind.POSITION_REUSED,
        ),
    ],
)
def test_a_planted_violation_is_found(history: list[Entry], kind: Kind) -> None:
    assert kinds(history) == {kind}


def test_allowed_deviations() -> None:
    crash = [*BEGIN, *published(0), *handled(0), Crashed("c"), *handled(0, "c2"), committed(1)]
    assert check(crash, complete=True) == []
    assert kinds(crash, repeats_per_interruption=0) == {Kind.DUPLICATE}
    for gone in ([], [0]):
        left = [
            *BEGIN,
            *published(0),
            *handled(0),
            Left("c", "t", "g", gone),
            *handled(0, "c2"),
            committed(1),
        ]
        assert check(left, complete=True) == []
    unknown = [*BEGIN, PublishBegun("p", "t", ["e0"], ["k"], ["d0"])]
    assert check(unknown, complete=True) == []
    assert check([*unknown, *handled(0), committed(1)], complete=True) == []
    dead = [*BEGIN, *published(0), DeadLettered("c", "t", "g", "e0"), committed(1)]
    assert check(dead, complete=True) == []
    before_the_group = [*published(0), Assigned("c", "t", "g", {0: 1}), Subscribed("c", "t", "g")]
    assert check(before_the_group, complete=True) == []
    running = [*BEGIN, *published(0)]
    assert check(running) == []
    side_by_side = [
        *BEGIN,
        *(PublishBegun("p", "t", [f"e{n}"], ["k"], [f"d{n}"]) for n in (0, 1)),
        *(Acknowledged("p", "t", [f"e{n}"], [(0, n)]) for n in (1, 0)),
        *handled(0),
        *handled(1),
    ]
    assert check(side_by_side, complete=True) == []
    assert check([*BEGIN, *published(0), *published(1), *handled(1), *handled(0)], ordered=False) == []


@given(st.data())
def test_one_entry_removed_from_a_correct_history_is_detected_or_harmless(data: st.DataObject) -> None:
    """Removing a handling or the delivery of an acknowledged event must be detected; other entries have no guarantee."""
    index = data.draw(st.integers(0, len(GOOD) - 1))
    if isinstance(GOOD[index], PublishBegun):
        with pytest.raises(ValueError, match="no entry before it published"):
            check(GOOD[:index] + GOOD[index + 1 :], complete=True)
        return
    found = check(GOOD[:index] + GOOD[index + 1 :], complete=True)
    if isinstance(GOOD[index], Handled):
        assert Kind.LOST in {v.kind for v in found}
    elif isinstance(GOOD[index], (CommitBegun, Delivered, Subscribed, Assigned)):
        assert found == []


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=30),
    st.randoms(use_true_random=False),
)
def test_the_bus_produces_a_correct_history(plan: list[tuple[str, int]], rng: random.Random) -> None:
    async def run(path: Path) -> None:
        history = History.append_to(path)
        bus = EventBus(RecordingBackend(MemoryBackend(MemoryOptions(partitions=3), SystemClock()), history))

        async def handler(event: Event) -> None:
            if rng.random() < event.payload[1] / 4:
                raise ValueError("not this time")

        await bus.subscribe(
            "t",
            handler,
            "g",
            middleware=[history.handling("t", "g")],
            options=SubscriptionOptions(retry=RetryPolicy(attempts=2, base=0)),
        )
        for number, (key, failing) in enumerate(plan):
            await bus.publish("t", Event("x.y", None, [number, failing]), key=key)
        await bus.idle()
        await bus.close()
        history.close()

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.jsonl"
        asyncio.run(run(path))
        assert check(read(path), complete=True, repeats_per_interruption=0) == []


@pytest.mark.slow
async def test_from_a_shell(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(
        b"".join(encode(entry) + b"\n" for entry in GOOD) + b'{"type": "hand'
    )  # a crash truncated the last line
    command = [sys.executable, "-m", "dimesh_contracts.history", str(path), "--complete"]
    good = subprocess.run(command, capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stderr
    assert "0 violations" in good.stdout
    path.write_bytes(b"".join(encode(entry) + b"\n" for entry in [*GOOD, *handled(0)]))
    bad = subprocess.run(command, capture_output=True, text=True, check=False)
    assert bad.returncode == 1
    assert "DUPLICATE: group g of t handled e0 again" in bad.stdout
    path.write_bytes(b"junk\n" + b"{}\n")
    broken = subprocess.run(command, capture_output=True, text=True, check=False)
    assert broken.returncode == 2
    assert "line 1 is no entry of a history" in broken.stderr


async def test_lone_subscriptions_and_dead_letters_on_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    history = History.append_to(path)
    inner = EventBusFactory.create("sqlite", path=str(tmp_path / "mesh.db"))
    bus = EventBus(RecordingBackend(inner.door._backend, history))

    async def handler(event: Event) -> None:
        if event.payload % 7 == 0:
            raise ValueError("unlucky")

    for group in ("one", "two"):
        await bus.subscribe(
            "t",
            handler,
            group,
            start=StartAt.EARLIEST,
            middleware=[history.handling("t", group)],
            options=SubscriptionOptions(retry=RetryPolicy(attempts=2, base=0)),
        )
    for number in range(50):
        await bus.publish("t", Event("x.y", None, number), key=f"k{number % 5}")
    await bus.idle()
    await bus.close()
    found = read(path)
    assert check(found, complete=True, repeats_per_interruption=0) == []
    assert sum(isinstance(e, DeadLettered) for e in found) == 16
    without = [e for e in found if not isinstance(e, DeadLettered)]
    assert Kind.LOST in kinds(without)


def test_an_invalid_entry_is_refused() -> None:
    """A history that cannot be parsed must not count as one without violations."""
    with pytest.raises(ValueError, match="is none"):
        check([iter(())])  # type: ignore[list-item]
