"""A sandbox for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from dimesh.clock import SystemClock
from dimesh.options import parse_options
from dimesh_salesforce.options import SalesforceOptions
from dimesh_salesforce.sandbox import CLIENT_ID, CLIENT_SECRET, SalesforceSandbox
from dimesh_salesforce.source import SalesforceSource


@pytest.fixture(autouse=True)
def own_ledger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give each test a ledger of its own: limits that an earlier server of the same port set are not for this one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
async def sandbox() -> AsyncIterator[SalesforceSandbox]:
    async with SalesforceSandbox(keep_alive=0.05) as made:
        yield made


@pytest.fixture
def options(sandbox: SalesforceSandbox) -> dict[str, Any]:
    """Return the options of a source on the sandbox."""
    return {
        "instance_url": sandbox.url,
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "pubsub": sandbox.grpc_target,
        "plaintext": True,
        "rate": 10_000,
    }


@pytest.fixture
async def new_source(options: dict[str, Any]) -> AsyncIterator[Callable[..., SalesforceSource]]:
    """Yield a function that makes a source; each is closed after the test, also if the test fails."""
    made: list[SalesforceSource] = []

    def make(**more: Any) -> SalesforceSource:
        given = {key: value for key, value in {**options, **more}.items() if value is not None}
        source = SalesforceSource(
            parse_options(SalesforceOptions, given, "source 'salesforce'"), SystemClock()
        )
        made.append(source)
        return source

    yield make
    for source in made:
        await source.close()
