"""What goes wrong: history that is gone, credentials that end, too many requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from dimesh import Event, EventBusFactory
from dimesh.capabilities import Capability
from dimesh.cdc import SourceConnector, SqliteCDCStore
from dimesh.errors import CredentialsError, SourcePositionLostError
from dimesh.spi.cdc import CDCSource, Change, Gap, Operation
from dimesh_contracts.cdc.guarantees import CDCGuarantee as G
from dimesh_contracts.cdc.harness import CDCHarness, NewSource
from dimesh_contracts.cdc.system import Expires, Forgets, Refuses, System
from dimesh_contracts.contract import proves
from dimesh_contracts.waiting import deadline, until


class Failures(CDCHarness):
    """Nothing in silence, and nothing lost."""

    @proves(G.POSITION_LOST, Capability.STREAM)
    async def test_a_position_from_elsewhere(self, source: CDCSource, system: System) -> None:
        """Usually wrong: it begins at the earliest or the latest, and says nothing."""
        await system.put("k", "v")
        stream = source.stream(system.object, b"\xff no position of ours")
        with pytest.raises(SourcePositionLostError):
            async with deadline():
                await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]

    @proves(G.GAPS, Capability.STREAM)
    async def test_forgotten_changes_are_said(self, source: CDCSource, system: System) -> None:
        """Usually wrong: the oldest change that is still there is taken for the next one."""
        forgets: Forgets = self._can(system, "lose_history")
        await system.put("a", "1")
        position = await source.position(system.object)
        await system.put("b", "1")
        ((_, position),) = await self.read(source, system.object, position, 1)
        await system.put("c", "1")
        await forgets.lose_history()
        stream = source.stream(system.object, position)
        try:
            async with deadline():
                batch = await anext(stream)
            assert batch.items, "a batch without items, where changes are missing"
            assert isinstance(batch.items[0], Gap), f"no gap, but {batch.items[0]}"
        except SourcePositionLostError:
            pass
        finally:
            await stream.aclose()  # type: ignore[attr-defined]
        position = await source.position(system.object)
        await system.put("d", "1")
        ((change, _),) = await self.read(source, system.object, position, 1)
        assert system.key(change) == "d"

    @proves(G.REPAIR, Capability.STREAM, Capability.SNAPSHOT)
    async def test_what_was_lost_is_repaired(
        self, new_source: NewSource, system: System, tmp_path: Path
    ) -> None:
        """A connector captures, stops, and the system changes and forgets: when it goes on, there is a gap, and after its repair
        the changes that were published give the rows as they are. Usually wrong: rows that were remembered, and are read
        no more; a snapshot that begins where the last one ended.
        """
        forgets: Forgets = self._can(system, "lose_history")
        rows = {f"k{n:03}": "old" for n in range(120)}
        for key in rows:
            await system.put(key, "old")
        by_id: dict[str, tuple[str, str]] = {}
        kinds: list[str] = []
        source = new_source()

        def shown() -> dict[str, str]:
            return dict(by_id.values())

        async def apply(event: Event) -> None:
            payload = event.payload
            kinds.append(event.event_type.value)
            if "operation" in payload:
                id, after = str(payload["primary_key"]), payload["after"]
                if after is None:
                    by_id.pop(id, None)
                else:
                    when = event.metadata.timestamp
                    change = Change(id, Operation.UPDATE, "", payload["primary_key"], None, after, when)
                    by_id[id] = (system.key(change), system.value(after))

        store = SqliteCDCStore(tmp_path / "captured.db")
        async with EventBusFactory.create("memory") as bus:
            connector = SourceConnector("captured", source, bus, store=store)
            await bus.subscribe(f"cdc.{source.system}", apply, "applied")
            await connector.start([system.object])
            await until(lambda: shown() == rows)
            await until(lambda: connector.get_status()["objects"][system.object]["phase"] == "stream")
            await connector.stop()
            for n in range(0, 120, 10):
                await system.delete(f"k{n:03}")
                del rows[f"k{n:03}"]
                await system.put(f"k{n + 1:03}", "new")
                rows[f"k{n + 1:03}"] = "new"
            await forgets.lose_history()
            await connector.start([system.object])
            await until(lambda: "cdc.repaired" in kinds)
            await until(lambda: shown() == rows)
            assert "cdc.gap" in kinds[: kinds.index("cdc.repaired")]
            await connector.disconnect()
        await store.close()

    @proves(G.CREDENTIALS, Capability.STREAM)
    async def test_credentials_that_end_while_it_streams(
        self, source: CDCSource, new_source: NewSource, system: System
    ) -> None:
        """Usually wrong: an error that looks as if the system did not answer, and is tried again until the account is
        locked; a stream that waits for ever.
        """
        expires: Expires = self._can(system, "expire_credentials", "renew_credentials")
        await system.put("first", "v")
        position = await source.position(system.object)
        await system.put("a", "1")
        stream = source.stream(system.object, position)
        try:
            async with deadline():
                batch = await anext(stream)
                while not batch.items:
                    batch = await anext(stream)
                position = batch.position
                await expires.expire_credentials()
                await system.put("b", "1")
                # A source that can renew them by itself may go on instead.
                batch = await anext(stream)
                while not batch.items:
                    batch = await anext(stream)
        except CredentialsError:
            pass
        finally:
            await stream.aclose()  # type: ignore[attr-defined]
        await expires.renew_credentials()
        other = new_source()
        await other.open()
        ((change, _),) = await self.read(other, system.object, position, 1)
        assert system.key(change) == "b"
        await other.close()

    @proves(G.BUDGET, Capability.STREAM)
    async def test_a_system_that_says_it_is_too_much(self, source: CDCSource, system: System) -> None:
        """Usually wrong: the request is made again at once, and again."""
        refuses: Refuses = self._can(system, "refuse_requests", "refused")
        await system.put("first", "v")
        position = await source.position(system.object)
        await refuses.refuse_requests(0.5)
        await system.put("a", "1")
        ((change, _),) = await self.read(source, system.object, position, 1)
        assert system.key(change) == "a"
        assert refuses.refused() <= 3, f"{refuses.refused()} requests while it was told to wait"
