"""What may happen to the network and to a group, and must not happen to events."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dimesh.capabilities import Capability
from dimesh.spi.bus import TopicConfig
from dimesh_contracts.broker.guarantees import BrokerGuarantee as G
from dimesh_contracts.bus.harness import BusHarness, NewBackend
from dimesh_contracts.contract import proves
from dimesh_contracts.history.exercise import exercise
from dimesh_contracts.proxy import FaultProxy


class Network(BusHarness):
    """Tests of a bus whose connection passes through a :class:`~dimesh_contracts.proxy.FaultProxy`."""

    @pytest.fixture
    def proxy(self) -> FaultProxy:
        """Return an open proxy in front of the broker."""
        raise NotImplementedError("give your test class a fixture 'proxy'")

    @pytest.fixture
    def new_proxied_backend(self, proxy: FaultProxy) -> NewBackend:
        """Return a function that makes backends which reach the broker through the proxy."""
        raise NotImplementedError("give your test class a fixture 'new_proxied_backend'")

    @pytest.fixture
    def new_impatient_backend(self, new_proxied_backend: NewBackend) -> NewBackend:
        """Return a function as above, for backends whose requests time out within 2 seconds."""
        raise NotImplementedError("give your test class a fixture 'new_impatient_backend'")

    @proves(G.NETWORK, Capability.GROUPS, Capability.KEY_ORDER)
    async def test_the_network_is_cut_and_heals(
        self, new_impatient_backend: NewBackend, proxy: FaultProxy, tmp_path: Path, topic: str
    ) -> None:
        """The cut outlasts every request. Usually wrong: a request that is sent again after one behind it arrived."""

        async def cut() -> None:
            proxy.cut()
            await asyncio.sleep(3.0)  # the length of the cut: longer than a request may take
            proxy.heal()

        await exercise(new_impatient_backend, tmp_path, cut, topic=topic, pause=0.002)

    @proves(G.NETWORK, Capability.GROUPS, Capability.KEY_ORDER)
    async def test_connections_break_again_and_again(
        self, new_proxied_backend: NewBackend, proxy: FaultProxy, tmp_path: Path, topic: str
    ) -> None:
        """Usually wrong: a request whose answer was lost counts as failed, or as acknowledged."""

        async def breaks() -> None:
            for _ in range(10):
                proxy.reset()
                await asyncio.sleep(0.1)  # the time between two breaks

        await exercise(new_proxied_backend, tmp_path, breaks, topic=topic, pause=0.002)

    @proves(G.NETWORK, Capability.GROUPS, Capability.KEY_ORDER)
    async def test_a_slow_and_narrow_network(
        self, new_proxied_backend: NewBackend, proxy: FaultProxy, tmp_path: Path, topic: str
    ) -> None:
        """Usually wrong: a heartbeat or a lease that waits behind data, so that the member is taken for dead."""

        async def slow() -> None:
            proxy.latency = 0.05
            proxy.bandwidth = 400_000

        await exercise(new_proxied_backend, tmp_path, slow, topic=topic, events=300)

    @proves(G.MEMBERS, Capability.GROUPS, Capability.KEY_ORDER)
    async def test_members_join_and_leave_while_events_flow(
        self, new_proxied_backend: NewBackend, tmp_path: Path, topic: str
    ) -> None:
        """Usually wrong: what a leaving member held is committed by it and handled by nobody."""
        if self.family == "log":
            admin = new_proxied_backend()
            await admin.open()
            await admin.create_topic(topic, TopicConfig(partitions=4))
            await admin.close()
        await exercise(new_proxied_backend, tmp_path, topic=topic, members=2, guests=4, pause=0.01)
