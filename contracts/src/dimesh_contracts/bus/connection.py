"""The connection to a server that breaks. What breaks it are the hands that the author lends to the kit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from dimesh.capabilities import Capability
from dimesh.errors import DimeshError
from dimesh.spi.bus import BusBackend, StartAt
from dimesh_contracts.bus.guarantees import BusGuarantee as G
from dimesh_contracts.bus.harness import BusHarness, NewBackend, Reader, payloads, record
from dimesh_contracts.contract import NOT_OFFERED, proves
from dimesh_contracts.proxy import FaultProxy
from dimesh_contracts.waiting import deadline, until


class Hands:
    """What a test does to the server and its connections. Override what you can do; what is not overridden is not tested."""

    async def cut(self) -> None:
        """Break all connections, and let nothing pass until :meth:`heal`."""
        pytest.skip(f"{NOT_OFFERED}hands that cut the connection")

    async def heal(self) -> None:
        """Let everything pass again."""
        pytest.skip(f"{NOT_OFFERED}hands that heal the connection")

    async def restart(self) -> None:
        """Kill the server, start it again over the same storage, and return when it serves."""
        pytest.skip(f"{NOT_OFFERED}hands that restart the server")


class ProxyHands(Hands):
    """Hands on a proxy in front of the server."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy

    async def cut(self) -> None:
        """Break all connections, and let nothing pass."""
        self.proxy.cut()
        self.proxy.reset()

    async def heal(self) -> None:
        """Let everything pass again."""
        self.proxy.heal()


async def settled(reader: Reader) -> None:
    """Commit or acknowledge until that is confirmed, as the engine does."""
    async with deadline(2):
        while True:
            try:
                return await reader.commit()
            except DimeshError:
                await asyncio.sleep(0.05)


class Connection(BusHarness):
    """Tests of a backend with a server."""

    @pytest.fixture
    async def hands(self) -> Hands:
        """Return what breaks the connection of the backends that ``new_distant_backend`` makes. By default nothing can."""
        return Hands()

    @pytest.fixture
    def new_distant_backend(self, new_backend: NewBackend) -> NewBackend:
        """Return a function that makes a backend whose connection is in reach of ``hands``."""
        return new_backend

    @proves(G.CONNECTION, Capability.GROUPS)
    async def test_a_connection_lost_while_acknowledging(
        self, new_distant_backend: NewBackend, hands: Hands, topic: str
    ) -> None:
        """The connection breaks while a commit, or an acknowledgement, is under way. It fails or it is done: after it was
        confirmed, nothing of it is delivered again; what was not acknowledged is. Usually wrong: the error is logged, and the
        record counts as acknowledged.
        """
        backend = new_distant_backend()
        await backend.open()
        reader = await self.open_reader(backend, topic, "g", StartAt.EARLIEST)
        await backend.append(topic, [record(n) for n in range(10)])
        await reader.take(6, limit=6)
        await hands.cut()
        acknowledging = asyncio.create_task(settled(reader))
        await asyncio.sleep(0.2)  # the time that the connection is gone
        await hands.heal()
        await acknowledging
        await reader.close()
        again = await self.open_reader(backend, topic, "g")
        seen: list[int] = []
        async with deadline(3):
            while not {6, 7, 8, 9} <= set(seen):
                seen += payloads(await again.take(1, limit=1, times=3))
        if self.family == "log" or Capability.CONFIRMED_ACKS in backend.capabilities:
            assert seen == [6, 7, 8, 9]
        await again.close()
        await backend.close()

    @proves(G.CONNECTION, Capability.GROUPS)
    async def test_publishing_and_reading_go_on_after_a_cut(
        self, new_distant_backend: NewBackend, hands: Hands, topic: str
    ) -> None:
        """Everything that was acknowledged before, during and after a cut is delivered, by the stream that was open all the
        time. Usually wrong: the stream waits on a connection that is gone; a record that was in flight counts as sent.
        """
        backend = new_distant_backend()
        await backend.open()
        reader = await self.open_reader(backend, topic, "g", StartAt.EARLIEST)
        await self._through(backend, reader, topic, hands.cut, hands.heal)
        await backend.close()

    @proves(G.CONNECTION, Capability.GROUPS, Capability.DURABLE)
    async def test_a_restart_of_the_server(
        self, new_distant_backend: NewBackend, hands: Hands, topic: str
    ) -> None:
        """The same when the server is killed and starts again. Usually wrong: the group or the subscription is gone for the
        server, and the stream waits for ever.
        """
        backend = new_distant_backend()
        await backend.open()
        reader = await self.open_reader(backend, topic, "g", StartAt.EARLIEST)
        await self._through(backend, reader, topic, hands.restart)
        await backend.close()

    @staticmethod
    async def _through(
        backend: BusBackend, reader: Reader, topic: str, *events: Callable[[], Awaitable[None]]
    ) -> None:
        """Publish and read while the events happen, and check that the stream delivers all that was acknowledged."""
        acknowledged: set[int] = set()
        received: set[int] = set()

        async def publish() -> None:
            for n in range(40):
                try:
                    await backend.append(topic, [record(n, f"k{n % 3}")])
                except DimeshError:
                    pass  # the outcome is unknown
                else:
                    acknowledged.add(n)
                await asyncio.sleep(0.01)  # so that some fall before, some into, and some behind the events

        async def read() -> None:
            while True:
                try:
                    found = await reader.take(1, limit=10, times=10)
                    received.update(payloads(found))
                    await reader.commit()
                except DimeshError:  # what was not acknowledged comes again
                    await asyncio.sleep(0.05)

        reading = asyncio.create_task(read())
        publishing = asyncio.create_task(publish())
        await until(lambda: len(received) >= 5, 2)
        for event in events:
            await event()
            await asyncio.sleep(0.2)  # the length of a cut
        async with deadline(4):
            await publishing
        assert 39 in acknowledged, "nothing could be published any more"
        try:
            await until(lambda: acknowledged <= received, 3)
        except TimeoutError:
            raise AssertionError(f"never delivered: {sorted(acknowledged - received)}") from None
        reading.cancel()
        await asyncio.wait({reading})
        await reader.close()
