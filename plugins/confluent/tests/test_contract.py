"""The contract of stores, with our own server at the other end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from registry_server import hosted, registry_app

from dimesh.capabilities import Capability
from dimesh.clock import SystemClock
from dimesh_confluent.options import ConfluentOptions
from dimesh_confluent.store import ConfluentStore
from dimesh_contracts.registry import NewStore, RegistryStoreContract


class TestConfluentStore(RegistryStoreContract):
    offers = frozenset({Capability.DECIDES_COMPATIBILITY, Capability.SOFT_DELETE, Capability.PERSISTENT})

    @pytest.fixture
    async def address(self) -> AsyncIterator[str]:
        async with hosted(registry_app()) as url:
            yield url

    @pytest.fixture
    def new_store(self, address: str) -> NewStore:
        options = ConfluentOptions(url=address)
        return lambda: ConfluentStore(options, SystemClock())
