"""A sandbox for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from dimesh.clock import SystemClock
from dimesh.options import parse_options
from dimesh_netsuite.options import NetSuiteOptions
from dimesh_netsuite.sandbox import NetSuiteSandbox
from dimesh_netsuite.source import NetSuiteSource


@pytest.fixture(autouse=True)
def own_ledger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give each test a ledger of its own: limits that an earlier server of the same port set are not for this one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
async def sandbox() -> AsyncIterator[NetSuiteSandbox]:
    async with NetSuiteSandbox() as made:
        yield made


@pytest.fixture
async def new_source(sandbox: NetSuiteSandbox) -> AsyncIterator[Callable[..., NetSuiteSource]]:
    """Yield a function that makes a source; each is closed after the test, also if the test fails."""
    made: list[NetSuiteSource] = []

    def make(**options: Any) -> NetSuiteSource:
        legacy = options.pop("legacy", False)
        given = {
            **sandbox.options(legacy=legacy), "poll": 0.05, "reread": 0.2, "refresh": 0.0, "rate": 1_000, "concurrency": 4,
            "read_lag": 0.0, **options,
        }  # fmt: skip
        source = NetSuiteSource(parse_options(NetSuiteOptions, given, "source 'netsuite'"), SystemClock())
        made.append(source)
        return source

    yield make
    for source in made:
        await source.close()


@pytest.fixture
async def source(new_source: Callable[..., NetSuiteSource]) -> NetSuiteSource:
    made = new_source()
    await made.open()
    return made
