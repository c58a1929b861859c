"""Waiting for a wake-up or the poll interval, by the injected clock."""

from __future__ import annotations

import asyncio

import pytest

from dimesh.clock import ManualClock, time_limit
from dimesh.sourcekit.wakeups import WakeUps


async def test_the_poll_interval_ends_a_wait() -> None:
    clock = ManualClock()
    wake_up = WakeUps(clock).of("invoice")
    waiting = asyncio.create_task(wake_up.wait(30.0))
    await clock.advance(29.9)
    assert not waiting.done()
    await clock.advance(0.2)
    assert await waiting is False
    assert clock.pending == 0


async def test_a_wake_up_ends_a_wait_of_its_object_only() -> None:
    clock = ManualClock()
    wake_ups = WakeUps(clock)
    invoices, charges = (asyncio.create_task(wake_ups.of(name).wait(30.0)) for name in ("invoice", "charge"))
    await clock.advance(1.0)
    wake_ups.wake(lambda name: name == "invoice")
    assert await invoices is True
    assert not charges.done()
    await clock.advance(30.0)
    assert await charges is False


async def test_a_wake_up_during_a_read_is_not_lost() -> None:
    wake_up = WakeUps(ManualClock()).of("invoice")
    wake_up.clear()
    wake_up.set()  # while the system is read
    assert await wake_up.wait(3_600.0)


async def test_a_time_limit_is_of_the_clock() -> None:
    clock = ManualClock()

    async def hang() -> None:
        async with time_limit(clock, 5.0):
            await asyncio.get_running_loop().create_future()

    hanging = asyncio.create_task(hang())
    await clock.advance(4.9)
    assert not hanging.done()
    await clock.advance(0.2)
    with pytest.raises(TimeoutError):
        await hanging


async def test_a_time_limit_leaves_other_cancellations_alone() -> None:
    clock = ManualClock()

    async def hang() -> None:
        async with time_limit(clock, 5.0):
            await asyncio.get_running_loop().create_future()

    hanging = asyncio.create_task(hang())
    await clock.advance(1.0)
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging
    assert clock.pending == 0
