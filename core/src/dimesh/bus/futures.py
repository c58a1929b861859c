"""A small helper for futures that several may settle."""

from __future__ import annotations

import asyncio


def settle(future: asyncio.Future[None]) -> None:
    """Set the result unless somebody did already (or it was cancelled)."""
    if not future.done():
        future.set_result(None)
