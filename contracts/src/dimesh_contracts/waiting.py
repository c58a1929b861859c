"""Waiting for a condition, with a deadline: a test that sleeps for a fixed time is slow, or wrong, or both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

_patience = 20.0


def be_patient(seconds: float) -> None:
    """How long all waits last at most, from now on."""
    global _patience
    _patience = seconds


def deadline(times: float = 1.0) -> asyncio.Timeout:
    """A block that fails when the kit's patience is over."""
    return asyncio.timeout(_patience * times)


async def eventually(true: Callable[[], Awaitable[T]], times: float = 1.0) -> T:
    """The first true answer of ``true``.

    Raises:
        TimeoutError: there was none within ``times`` the kit's patience.
    """
    async with deadline(times):
        while not (found := await true()):
            await asyncio.sleep(0.005)
        return found


async def until(true: Callable[[], Any], times: float = 1.0) -> None:
    """Return when ``true()`` is.

    Raises:
        TimeoutError: as above.
    """
    async with deadline(times):
        while not true():
            await asyncio.sleep(0.005)


async def later_than(moment: datetime) -> None:
    """Return when the clock has passed ``moment`` by more than a millisecond, which is as fine as any broker's time."""
    while datetime.now(UTC) - moment < timedelta(milliseconds=2):
        await asyncio.sleep(0.001)
