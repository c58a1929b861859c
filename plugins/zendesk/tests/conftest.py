"""A sandbox for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from dimesh.clock import SystemClock
from dimesh.options import parse_options
from dimesh_contracts.waiting import deadline
from dimesh_zendesk.options import ZendeskOptions
from dimesh_zendesk.sandbox import API_TOKEN, EMAIL, ZendeskSandbox
from dimesh_zendesk.source import ZendeskSource


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give each test a ledger and tokens of its own: what an earlier server of the same port gave is not for this one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
async def sandbox() -> AsyncIterator[ZendeskSandbox]:
    """Yield a sandbox that allows any number of exports, and holds changes back for a minute of its clock."""
    async with ZendeskSandbox(exports_a_minute=1_000_000) as made:
        yield made


@pytest.fixture
async def new_source(sandbox: ZendeskSandbox) -> AsyncIterator[Callable[..., ZendeskSource]]:
    """Yield a function that makes a source; each is closed after the test, also if the test fails."""
    made: list[ZendeskSource] = []

    def make(**options: Any) -> ZendeskSource:
        legacy = {"email": EMAIL, "api_token": API_TOKEN}
        oauth = {"client_id", "access_token"} & options.keys()
        given = {
            "url": sandbox.url, "poll": 0.05, "rate": 10_000, "exports": 1_000_000, "refresh": 0.2, "read_lag": 0.05,
            **({} if oauth else legacy), **options,
        }  # fmt: skip
        source = ZendeskSource(parse_options(ZendeskOptions, given, "source 'zendesk'"), SystemClock())
        made.append(source)
        return source

    yield make
    for source in made:
        await source.close()


Until = Callable[[Any], bool]


@pytest.fixture
async def read() -> Callable[..., Any]:
    """Return a function that reads a stream until an item fits, and returns all items with the last position."""

    async def read(source: Any, object: str, position: bytes, last: Until) -> tuple[list[Any], bytes]:
        found: list[Any] = []
        stream = source.stream(object, position)
        try:
            async with deadline():
                while True:
                    batch = await anext(stream)
                    found += batch.items
                    position = batch.position
                    if any(last(item) for item in batch.items):
                        return found, position
        finally:
            await stream.aclose()

    return read


@pytest.fixture
async def snapshot() -> Callable[..., Any]:
    """Return a function that reads a snapshot and returns its rows."""

    async def snapshot(source: Any, object: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async with deadline():
            async for batch in source.snapshot(object, None):
                found += [item.after for item in batch.items]
        return found

    return snapshot
