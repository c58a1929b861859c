"""Samples the keys of stored rows."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Final

from dimesh.spi.state import RowStore

PAGE: Final = 10_000
"""The number of keys that are read at once: capture waits for the store no longer than that takes."""


async def pages(store: RowStore, source: str) -> AsyncIterator[list[str]]:
    """Yield the keys of all rows of a source in pages."""
    after = ""
    while page := await store.keys(source, after, PAGE):
        yield page
        after = page[-1]


async def sample(store: RowStore, source: str, count: int, rng: random.Random) -> list[str]:
    """Return keys of stored rows in random order, each with the same chance; all of them if there are not more than ``count``."""
    chosen: list[str] = []
    seen = 0
    async for page in pages(store, source):
        for key in page:  # Vitter's algorithm R
            seen += 1
            if len(chosen) < count:
                chosen.append(key)
            elif (place := int(rng.random() * seen)) < count:
                chosen[place] = key
    rng.shuffle(chosen)
    return chosen
