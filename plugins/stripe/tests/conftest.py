"""A sandbox for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from dimesh.clock import SystemClock
from dimesh.options import parse_options
from dimesh_stripe.options import StripeOptions
from dimesh_stripe.sandbox import StripeSandbox
from dimesh_stripe.sandbox.server import KEY
from dimesh_stripe.source import StripeSource


@pytest.fixture(autouse=True)
def own_ledger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give each test a ledger of its own: limits that an earlier server of the same port set are not for this one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
async def sandbox() -> AsyncIterator[StripeSandbox]:
    async with StripeSandbox() as made:
        yield made


@pytest.fixture
async def new_source(sandbox: StripeSandbox) -> AsyncIterator[Callable[..., StripeSource]]:
    """Yield a function that makes a source; each is closed after the test, also if the test fails."""
    made: list[StripeSource] = []

    def make(**options: Any) -> StripeSource:
        given = {"api_key": KEY, "url": sandbox.url, "poll": 0.05, "reread": 0.2, "rate": 1_000, **options}
        source = StripeSource(parse_options(StripeOptions, given, "source 'stripe'"), SystemClock())
        made.append(source)
        return source

    yield make
    for source in made:
        await source.close()
