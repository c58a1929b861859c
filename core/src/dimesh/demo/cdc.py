"""A change feed from an application's own SQLite database, through the outbox source."""

from __future__ import annotations

from dimesh.demo.stage import Stage


async def play(stage: Stage) -> None:
    """Placeholder until the runner's API is merged; replaced below."""
    raise NotImplementedError
