"""Google's fake of Pub/Sub for the tests that need it, started when the first of them asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pubsub_fixtures
import pytest

from dimesh_pubsub.backend import PubSubBackend
from servers.availability import available
from servers.pubsub.fake import PubSub, pubsub_fake
from servers.pubsub.small import SmallPubSub, pubsub_small


@pytest.fixture(scope="session")
def pubsub(request: pytest.FixtureRequest) -> Iterator[PubSub]:
    """One server for all tests of the process. A test that hurts it starts one of its own."""
    with available(pubsub_fake(), request) as server:
        yield server


@pytest.fixture
def project() -> str:
    """A project of the test's own."""
    return f"p-{uuid4().hex[:12]}"


@pytest.fixture
def new_backend(pubsub: PubSub, project: str) -> Callable[..., PubSubBackend]:
    """Makes backends on the server."""

    def make(**options: Any) -> PubSubBackend:
        return pubsub_fixtures.backend(pubsub.address, project, **options)

    return make


@pytest.fixture(scope="session")
def small(request: pytest.FixtureRequest) -> Iterator[SmallPubSub]:
    """The small server; see :mod:`servers.pubsub.small`."""
    with available(pubsub_small(), request) as server:
        yield server


@pytest.fixture
def topic() -> str:
    """Of the test's own."""
    return f"t.{uuid4().hex[:12]}"


@pytest.fixture
def make(small: SmallPubSub, project: str) -> Callable[..., PubSubBackend]:
    """Makes backends on the small server."""

    def backend(**options: Any) -> PubSubBackend:
        return pubsub_fixtures.backend(options.pop("address", small.address), project, **options)

    return backend
