"""Queues: deliveries that are leased, acknowledged and released one by one."""

from __future__ import annotations

import asyncio

import pytest

from dimesh.capabilities import Capability
from dimesh.clock import SystemClock
from dimesh.errors import FencedError
from dimesh.spi.bus import BusBackend, Delivery
from dimesh_contracts.bus.guarantees import BusGuarantee as G
from dimesh_contracts.bus.harness import BusHarness, Reader, payloads, record
from dimesh_contracts.contract import proves
from dimesh_contracts.waiting import until


class Leases(BusHarness):
    """What a queue has in place of offsets."""

    @proves(G.LEASE, Capability.NATIVE_LEASE, Capability.GROUPS, family="queue")
    async def test_what_is_released_comes_again(self, backend: BusBackend, topic: str) -> None:
        """A released delivery is delivered again to the same group, even to the same member, and not before its delay.
        Usually wrong: a release counts as an acknowledgement; a delay is ignored.
        """
        reader = await self.open_reader(backend, topic, "g")
        await backend.append(topic, [record("now", "a"), record("later", "b"), record("kept", "c")])
        got = {d.record.event.payload: d for d in await reader.take(3)}
        began = SystemClock().monotonic()
        await reader.stream.release([got["later"]], 1.0)
        await reader.stream.release([got["now"]])
        again = await reader.take(1)
        assert payloads(again) == ["now"]
        again += await reader.take(1)
        assert payloads(again) == ["now", "later"]
        assert SystemClock().monotonic() - began >= 0.95
        await reader.nothing()
        await reader.stream.acknowledge([got["kept"], *again])
        await reader.stream.close()
        last = await self.open_reader(backend, topic, "g")
        await last.nothing()
        await last.close()

    @proves(G.COMMIT, Capability.NATIVE_LEASE, Capability.GROUPS, family="queue")
    async def test_each_is_acknowledged_for_itself(self, backend: BusBackend, topic: str) -> None:
        """Deliveries are acknowledged in any order; exactly those that were not acknowledged are delivered again. Usually
        wrong: an acknowledgement is read as a position.
        """
        reader = await self.open_reader(backend, topic, "g")
        await backend.append(topic, [record(n, f"k{n}") for n in range(10)])
        got = {d.record.event.payload: d for d in await reader.take(10)}
        await reader.stream.acknowledge([got[n] for n in (9, 2, 5)])
        await reader.stream.acknowledge([got[0]])
        await reader.close()
        again = await self.open_reader(backend, topic, "g")
        assert sorted(payloads(await again.take(6))) == [1, 3, 4, 6, 7, 8]
        await again.nothing()
        await again.commit()
        await again.close()

    @proves(G.LEASE, Capability.NATIVE_LEASE, Capability.GROUPS, family="queue")
    async def test_members_share(self, backend: BusBackend, topic: str) -> None:
        """Each delivery goes to one member; what a member leaves goes to another. Usually wrong: the leases of a member that
        has left stay.
        """
        one, two = await self.open_reader(backend, topic, "g"), await self.open_reader(backend, topic, "g")
        received: dict[Reader, list[Delivery]] = {one: [], two: []}

        async def receive(reader: Reader) -> None:
            while batches := await reader.stream.receive(10):
                for batch in batches:
                    received[reader] += batch.deliveries

        pumps = [asyncio.create_task(receive(reader)) for reader in received]
        await backend.append(topic, [record(n, f"k{n}") for n in range(40)])
        await until(lambda: sum(map(len, received.values())) >= 40)
        for pump in pumps:
            pump.cancel()
        await asyncio.wait(pumps)
        assert sorted(payloads(received[one] + received[two])) == list(range(40))
        await one.close()
        passed_on = await two.take(len(received[one]))
        assert sorted(payloads(passed_on)) == sorted(payloads(received[one]))
        await two.stream.acknowledge([*passed_on, *received[two]])
        await two.close()
        last = await self.open_reader(backend, topic, "g")
        await last.nothing()
        await last.close()

    @proves(G.LEASE, Capability.NATIVE_LEASE, Capability.GROUPS, family="queue")
    async def test_a_lease_lasts_as_long_as_it_is_held(self, backend: BusBackend, topic: str) -> None:
        """A handler may take longer than the lease, and nothing is delivered again meanwhile. Usually wrong: leases are not
        extended, or only while something is received.
        """
        reader = await self.open_reader(backend, topic, "g")
        await backend.append(topic, [record("held")])
        await reader.take(1)
        await reader.nothing(self.lease * 1.6)
        await reader.commit()
        await reader.close()
        again = await self.open_reader(backend, topic, "g")
        await again.nothing()
        await again.close()

    @proves(G.CONFIRMED, Capability.CONFIRMED_ACKS, Capability.GROUPS, family="queue")
    async def test_a_lapsed_lease_cannot_be_acknowledged(self, backend: BusBackend, topic: str) -> None:
        """The member that has the delivery now can acknowledge it, and the other deliveries of the call are acknowledged.
        Usually wrong: an acknowledgement by the id of the message.
        """
        one = await self.open_reader(backend, topic, "g")
        await backend.append(topic, [record("passed on", "a"), record("done", "b")])
        got = {d.record.event.payload: d for d in await one.take(2)}
        await one.stream.release([got["passed on"]])
        (again,) = await one.take(1)
        assert again.record.event.payload == "passed on"
        with pytest.raises(FencedError):
            await one.stream.acknowledge([got["passed on"], got["done"]])
        await one.stream.acknowledge([again])
        await one.close()
        two = await self.open_reader(backend, topic, "g")
        await two.nothing()
        await two.close()
