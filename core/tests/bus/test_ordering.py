"""Order per key, whatever fails, however many lanes: the property that users build on."""

from __future__ import annotations

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from dimesh import Event, EventBusFactory, EventMetadata, RetryPolicy, SubscriptionOptions
from dimesh.bus.progress import PartitionProgress

plans = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 3)),  # key, how often the event fails before it succeeds
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(plans, st.integers(1, 5), st.integers(1, 10), st.integers(1, 4), st.randoms(use_true_random=False))
def test_events_of_one_key_are_handled_in_order(
    plan: list[tuple[int, int]], concurrency: int, in_flight: int, partitions: int, rng: random.Random
) -> None:
    handled: dict[int, list[int]] = {}
    tries: dict[int, int] = {}
    running: set[int] = set()

    async def handler(event: Event) -> None:
        number, key, failures = event.payload
        assert key not in running, "two events of one key at the same time"
        running.add(key)
        try:
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
            tries[number] = tries.get(number, 0) + 1
            if tries[number] <= failures:
                raise ValueError(number)
            handled.setdefault(key, []).append(number)
        finally:
            running.discard(key)

    async def run() -> None:
        bus = EventBusFactory.create("memory", partitions=partitions)
        await bus.subscribe(
            "t",
            handler,
            "g",
            options=SubscriptionOptions(
                concurrency=concurrency,
                max_in_flight=in_flight,
                retry=RetryPolicy(attempts=10, base=0),
            ),
        )
        for number, (key, failures) in enumerate(plan):
            metadata = EventMetadata(source_pillar="p", source_agent=str(key))
            await bus.publish("t", Event("custom", metadata, [number, key, failures]))
        await bus.idle()
        await bus.close()

    asyncio.run(run())
    for key in {key for key, _ in plan}:
        assert handled[key] == [n for n, (k, _) in enumerate(plan) if k == key]
    assert all(tries[n] == failures + 1 for n, (_, failures) in enumerate(plan))


@given(st.lists(st.integers(0, 50), unique=True, max_size=30).map(sorted), st.randoms(use_true_random=False))
def test_the_watermark_never_passes_a_pending_record(offsets: list[int], rng: random.Random) -> None:
    part = PartitionProgress(0, 0, 0)
    part.pending.update(offsets)
    part.next_offset = (offsets[-1] + 1) if offsets else 7
    left = list(offsets)
    last = -1
    while left:
        mark = part.watermark()
        assert mark == min(left)
        assert mark >= last
        last = mark
        done = rng.choice(left)
        left.remove(done)
        part.pending.discard(done)
    assert part.watermark() == part.next_offset
