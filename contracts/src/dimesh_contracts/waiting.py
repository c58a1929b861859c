"""Waiting for a condition, with a deadline: a test that sleeps for a fixed time is slow, or wrong, or both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
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
