"""Clients for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from dimesh.clock import Clock, SystemClock
from dimesh.sourcekit.budget import RateLimiter
from dimesh.sourcekit.http import SourceClient
from dimesh.sourcekit.options import SourceOptions


@asynccontextmanager
async def client(
    clock: Clock | None = None, max_bytes: int = 1_000_000, **options: Any
) -> AsyncIterator[SourceClient]:
    """Yield a client that does not retry, unless its options say so."""
    clock = clock or SystemClock()
    made = SourceClient(
        "Acme",
        SourceOptions(**{"retry_for": 0.0, "timeout": 10.0, **options}),
        clock,
        RateLimiter(10_000.0, clock),
        max_bytes,
    )
    await made.open()
    try:
        yield made
    finally:
        await made.close()
