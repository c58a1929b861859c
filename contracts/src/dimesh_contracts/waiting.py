"""Waiting for a condition, with a deadline: a test that sleeps for a fixed time is slow, or wrong, or both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

T = TypeVar("T")


async def eventually(true: Callable[[], Awaitable[T]], timeout: float = 10.0) -> T:
    """The first true answer of ``true``.

    Raises:
        TimeoutError: there was none within ``timeout`` seconds.
    """
    async with asyncio.timeout(timeout):
        while not (found := await true()):
            await asyncio.sleep(0.005)
        return found


async def later_than(moment: datetime) -> None:
    """Return when the clock has passed ``moment`` by more than a millisecond, which is as fine as any broker's time."""
    while datetime.now(UTC) - moment < timedelta(milliseconds=2):
        await asyncio.sleep(0.001)
