"""Google's fake of Pub/Sub for the tests that need it, started when the first of them asks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pubsub_fixtures
import pytest

from dimesh_contracts.proxy import FaultProxy
from dimesh_pubsub.backend import PubSubBackend
from servers.availability import available
from servers.pubsub.fake import PubSub, pubsub_fake
from servers.pubsub.small import SmallPubSub, pubsub_small

LONG = {
    "test_a_handler_may_take_longer_than_the_lease",
    "test_a_lease_lasts_as_long_as_it_is_held",
    "test_a_pause_keeps_partitions_and_order",
    "test_what_was_committed_survives_a_kill",
}
"""Tests of the kit that wait for leases: the shortest lease of Pub/Sub is ten seconds."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the long ones to the slow tests."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.name in LONG:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def pubsub(request: pytest.FixtureRequest) -> Iterator[PubSub]:
    """Start one server for all tests of the process. A test that disturbs the server starts one of its own."""
    with available(pubsub_fake(), request) as server:
        yield server


@pytest.fixture
def project() -> str:
    """Return a project that no other test uses."""
    return f"p-{uuid4().hex[:12]}"


@pytest.fixture
def new_backend(pubsub: PubSub, project: str) -> Callable[..., PubSubBackend]:
    """Return a function that makes backends on the server."""

    def make(**options: Any) -> PubSubBackend:
        return pubsub_fixtures.backend(pubsub.address, project, **options)

    return make


@pytest.fixture(scope="session")
def small(request: pytest.FixtureRequest) -> Iterator[SmallPubSub]:
    """Start the small server; see :mod:`servers.pubsub.small`."""
    with available(pubsub_small(), request) as server:
        yield server


@pytest.fixture
def topic() -> str:
    """Return a topic that no other test uses."""
    return f"t.{uuid4().hex[:12]}"


@pytest.fixture
def make(small: SmallPubSub, project: str) -> Callable[..., PubSubBackend]:
    """Return a function that makes backends on the small server."""

    def backend(**options: Any) -> PubSubBackend:
        return pubsub_fixtures.backend(options.pop("address", small.address), project, **options)

    return backend


@pytest.fixture
async def proxy(small: SmallPubSub) -> AsyncIterator[FaultProxy]:
    """Open a proxy between the bus and the small server."""
    async with FaultProxy(small.port) as opened:
        yield opened


@pytest.fixture
def through(make: Callable[..., PubSubBackend], proxy: FaultProxy) -> Callable[..., PubSubBackend]:
    """Return a function that makes backends which reach the small server through the proxy."""
    return lambda **options: make(address=f"127.0.0.1:{proxy.port}", **options)
