"""Waiting for a condition, with a deadline: a test that sleeps for a fixed time is slow, or wrong, or both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

_patience = 20.0
_factor = 1.0


def be_patient(seconds: float) -> None:
    """Set the longest time that any wait may take from now on."""
    global _patience
    _patience = seconds


def be_patient_by(factor: float) -> None:
    """Multiply the longest time of every wait: for machines that do much at the same time."""
    global _factor
    _factor = factor


def patience(times: float = 1.0) -> float:
    """Return the longest time that a wait may take, in seconds."""
    return _patience * _factor * times


def deadline(times: float = 1.0) -> asyncio.Timeout:
    """Return a context that fails when the kit's patience is over."""
    return asyncio.timeout(patience(times))


async def eventually(true: Callable[[], Awaitable[T]], times: float = 1.0) -> T:
    """Return the first true answer of ``true``.

    Raises:
        TimeoutError: there was no true answer within ``times`` the kit's patience.
    """
    async with deadline(times):
        while not (found := await true()):
            await asyncio.sleep(0.005)
        return found


async def until(true: Callable[[], Any], times: float = 1.0) -> None:
    """Return when ``true()`` is true. Raises TimeoutError after ``times`` the kit's patience."""
    async with deadline(times):
        while not true():
            await asyncio.sleep(0.005)


async def later_than(moment: datetime) -> None:
    """Return when the clock has passed ``moment`` by more than a millisecond, the finest resolution of a broker's time."""
    while datetime.now(UTC) - moment < timedelta(milliseconds=2):
        await asyncio.sleep(0.001)
