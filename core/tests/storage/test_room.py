"""The bounded room: order, bounds, time-outs, cancellation, closing."""

from __future__ import annotations

import asyncio
import math
import random

import pytest

from dimesh.clock import ManualClock, SystemClock
from dimesh.errors import BackpressureError, BusClosedError
from dimesh.storage.room import Room, WaitQueue
from dimesh_contracts.waiting import deadline, until


def new_room(items: int = 10, size: int = 1_000) -> tuple[Room, ManualClock]:
    clock = ManualClock()
    return Room(clock, items, size, "records wait"), clock


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_space_is_counted_in_items_and_bytes() -> None:
    room, _ = new_room()
    assert room.try_take(4, 600)
    assert not room.try_take(1, 401)
    assert not room.try_take(7, 0)
    assert room.try_take(6, 400)
    assert (room.items, room.bytes) == (10, 1_000)
    room.free(10, 1_000)
    assert (room.items, room.bytes) == (0, 0)


def test_what_is_larger_than_the_room_enters_alone() -> None:
    room, _ = new_room()
    assert room.try_take(11, 5_000)
    assert not room.try_take(0, 1)
    room.free(11, 5_000)
    assert room.try_take(1, 1)
    assert not room.try_take(11, 1)


async def test_waiters_are_served_in_their_order_and_nobody_overtakes() -> None:
    room, _ = new_room(1)
    assert room.try_take(1, 1)
    order: list[int] = []

    async def taker(n: int) -> None:
        await room.take(1, 1, 60)
        order.append(n)
        room.free(1, 1)

    tasks = [asyncio.create_task(taker(n)) for n in range(5)]
    await settle()
    room.free(1, 1)
    assert not room.try_take(1, 1)  # there is space, but it belongs to the first waiter
    tasks.append(asyncio.create_task(taker(5)))
    await asyncio.gather(*tasks)
    assert order == list(range(6))
    assert (room.items, room.bytes) == (0, 0)


async def test_a_large_request_is_not_starved_by_small_ones() -> None:
    room, _ = new_room()
    assert room.try_take(5, 0)
    large = asyncio.create_task(room.take(9, 0, 60))
    await settle()
    small = asyncio.create_task(room.take(1, 0, 60))
    await settle()
    assert not small.done()
    room.free(5, 0)
    await asyncio.gather(large, small)
    assert room.items == 10


async def test_one_release_serves_all_that_fit() -> None:
    room, _ = new_room()
    assert room.try_take(10, 0)
    tasks = [asyncio.create_task(room.take(3, 0, 60)) for _ in range(4)]
    await settle()
    room.free(10, 0)
    await settle()
    assert [task.done() for task in tasks] == [True, True, True, False]
    room.free(3, 0)
    await asyncio.gather(*tasks)


async def test_the_timeout_is_an_error_that_says_what_to_do() -> None:
    room, clock = new_room()
    assert room.try_take(10, 0)
    task = asyncio.create_task(room.take(1, 0, 2.5))
    await clock.advance(2.4)
    assert not task.done()
    await clock.advance(0.2)
    with pytest.raises(BackpressureError) as caught:
        await task
    assert str(caught.value) == (
        "10 records wait; no room came free within 2.5 s and nothing was published. "
        "Publish more slowly, or raise the option 'max_queued'"
    )
    assert clock.pending == 0
    with pytest.raises(BackpressureError, match="within 0 s"):
        await room.take(1, 0, 0)
    assert room.items == 10


async def test_a_waiter_that_gives_up_lets_the_next_one_go() -> None:
    room, clock = new_room()
    assert room.try_take(5, 0)
    too_large = asyncio.create_task(room.take(9, 0, 1))
    await settle()
    cancelled = asyncio.create_task(room.take(8, 0, 60))
    await settle()
    small = asyncio.create_task(room.take(5, 0, 60))
    await settle()
    cancelled.cancel()
    await clock.advance(1.1)
    await small
    assert room.items == 10
    with pytest.raises(BackpressureError):
        await too_large
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert clock.pending == 0


async def test_a_cancelled_waiter_that_was_woken_already_takes_nothing() -> None:
    room, _ = new_room(1)
    assert room.try_take(1, 0)
    first = asyncio.create_task(room.take(1, 0, 60))
    second = asyncio.create_task(room.take(1, 0, 60))
    await settle()
    room.free(1, 0)  # wakes the first
    first.cancel()
    await second
    assert room.items == 1
    assert first.cancelled()


async def test_closing_ends_all_waits() -> None:
    room, clock = new_room(1)
    assert room.try_take(1, 0)
    tasks = [asyncio.create_task(room.take(1, 0, 60)) for _ in range(3)]
    await settle()
    room.close()
    for task in tasks:
        with pytest.raises(BusClosedError):
            await task
    room.free(1, 0)
    assert not room.try_take(1, 0)
    with pytest.raises(BusClosedError):
        await room.take(1, 0, 60)
    assert clock.pending == 0


async def test_a_wait_without_limit_uses_no_timer() -> None:
    clock = ManualClock()
    queue = WaitQueue(clock)
    ready: list[bool] = []
    task = asyncio.create_task(queue.wait(lambda: bool(ready), math.inf))
    await settle()
    queue.wake()  # the condition does not hold
    await settle()
    assert not task.done()
    assert clock.pending == 0
    ready.append(True)
    queue.wake()
    assert await task


async def test_a_condition_that_holds_at_the_time_out_wins() -> None:
    clock = ManualClock()
    queue = WaitQueue(clock)
    ready: list[bool] = []
    task = asyncio.create_task(queue.wait(lambda: bool(ready), 1))
    await settle()
    ready.append(True)  # and nobody calls wake()
    await clock.advance(1.0)
    assert await task


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.slow
async def test_bounds_hold_and_nothing_leaks_whatever_happens(seed: int) -> None:
    rng = random.Random(seed)
    room = Room(SystemClock(), 20, 2_000, "records wait")
    refused = 0
    running = 0

    async def user() -> None:
        nonlocal refused, running
        for _ in range(20):
            items, size = rng.randint(1, 25), rng.randint(0, 2_500)
            try:
                if not room.try_take(items, size):
                    await room.take(items, size, rng.choice((0, 0.001, 5.0)))
            except BackpressureError:
                refused += 1
                continue
            running += 1
            try:
                assert running == 1 or (room.items <= 20 and room.bytes <= 2_000)
                await asyncio.sleep(rng.choice((0, 0, 0.0005)))
            finally:
                running -= 1
                room.free(items, size)

    async with deadline():
        tasks = [asyncio.create_task(user()) for _ in range(20)]
        await asyncio.sleep(0)
        for task in rng.sample(tasks, 5):
            await asyncio.sleep(0)
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(r is None or isinstance(r, asyncio.CancelledError) for r in results), results
    await until(lambda: (room.items, room.bytes) == (0, 0))
    assert room.try_take(20, 2_000)
