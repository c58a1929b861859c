"""What goes wrong: history that is gone, credentials that end, too many requests."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dimesh import Event, EventBusFactory, SqliteCDCStore
from dimesh.capabilities import Capability
from dimesh.cdc import SourceConnector
from dimesh.errors import CredentialsError, SourcePositionLostError
from dimesh.spi.cdc import CDCSource, Change, Gap, Operation
from dimesh_contracts.cdc.guarantees import CDCGuarantee as G
from dimesh_contracts.cdc.harness import CDCHarness, NewSource
from dimesh_contracts.cdc.system import (
    Announces,
    Derives,
    Expires,
    Forgets,
    Hides,
    Interrupted,
    Refuses,
    Silent,
    System,
)
from dimesh_contracts.contract import proves
from dimesh_contracts.waiting import deadline, until


class Failures(CDCHarness):
    """Nothing is lost, and no loss is silent."""

    @proves(G.POSITION_LOST, Capability.STREAM)
    async def test_a_position_from_elsewhere(self, source: CDCSource, system: System) -> None:
        """Usually wrong: the stream starts at the earliest or the latest position silently."""
        await system.put("k", "v")
        stream = source.stream(system.object, b"\xff no position of ours")
        with pytest.raises(SourcePositionLostError):
            async with deadline():
                await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]

    @proves(G.GAPS, Capability.STREAM)
    async def test_forgotten_changes_are_said(self, source: CDCSource, system: System) -> None:
        """Usually wrong: the oldest change that is left counts as the next one; a stream that continues from the position of the
        gap reports the gap again.
        """
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
            position = batch.position
        except SourcePositionLostError:
            position = await source.position(system.object)
        finally:
            await stream.aclose()  # type: ignore[attr-defined]
        await system.put("d", "1")
        ((change, _),) = await self.read(source, system.object, position, 1)
        assert system.key(change) == "d"

    @proves(G.REPAIR, Capability.STREAM, Capability.SNAPSHOT)
    async def test_what_was_lost_is_repaired(
        self, new_source: NewSource, system: System, tmp_path: Path
    ) -> None:
        """A connector stops, the system changes and forgets, and the connector continues: there is a gap, and after its
        repair the published changes give the current rows. Usually wrong: rows that were remembered are not read again; a
        snapshot starts where the last one ended.
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

    @proves(G.ABSENCE, Capability.STREAM, Capability.SNAPSHOT)
    async def test_a_row_that_a_list_leaves_out(
        self, new_source: NewSource, system: System, tmp_path: Path
    ) -> None:
        """Usually wrong: a repair takes whatever the list lacks for deleted; a row that cannot be found at that moment is."""
        hides: Hides = self._can(system, "lose_history", "hide")
        for key in ("listed", "hidden", "deleted"):
            await system.put(key, "old")
        source = new_source()
        kinds: list[str] = []
        deleted: list[str] = []
        keys: dict[str, str] = {}

        async def note(event: Event) -> None:
            kinds.append(event.event_type.value)
            if "operation" in event.payload:
                id, after = str(event.payload["primary_key"]), event.payload["after"]
                if after is not None:
                    when = event.metadata.timestamp
                    row = Change(id, Operation.UPDATE, "", event.payload["primary_key"], None, after, when)
                    keys[id] = system.key(row)
                else:
                    deleted.append(keys[id])

        store = SqliteCDCStore(tmp_path / "captured.db")
        async with EventBusFactory.create("memory") as bus:
            connector = SourceConnector("captured", source, bus, store=store)
            await bus.subscribe(f"cdc.{source.system}", note, "noted")
            await connector.start([system.object])
            await until(lambda: len(keys) == 3)
            await until(lambda: connector.get_status()["objects"][system.object]["phase"] == "stream")
            await connector.stop()
            await hides.hide("hidden")
            await system.delete("deleted")
            await hides.lose_history()
            await connector.start([system.object])
            await until(lambda: "cdc.repaired" in kinds)
            assert deleted == ["deleted"], "a row that exists was published as deleted"
            await connector.disconnect()
        await store.close()

    @proves(G.CURRENT, Capability.STREAM, Capability.SNAPSHOT)
    async def test_a_field_that_changes_leave_out(
        self, new_source: NewSource, system: System, tmp_path: Path
    ) -> None:
        """The row is completed from what was stored. Usually wrong: the formula is the one of the last reading, in a row that
        claims to be whole.
        """
        derives: Derives = self._can(system, "derive", "derived")
        await system.put("k", "1")
        await derives.derive("k", "first")
        source = new_source()
        payloads: list[Any] = []

        async def note(event: Event) -> None:
            if "operation" in event.payload:
                payloads.append(event.payload)

        store = SqliteCDCStore(tmp_path / "captured.db", last_state=True)
        async with EventBusFactory.create("memory") as bus:
            connector = SourceConnector("captured", source, bus, store=store)
            await bus.subscribe(f"cdc.{source.system}", note, "noted")
            await connector.start([system.object])
            await until(lambda: len(payloads) == 1)
            assert derives.derived(payloads[0]["after"]) == "first"
            await until(lambda: connector.get_status()["objects"][system.object]["phase"] == "stream")
            await derives.derive("k", "second")
            await system.put("k", "2")
            await until(lambda: len(payloads) == 2)
            change = payloads[1]
            assert system.value(change["after"]) == "2"
            if derives.derived_field not in change["metadata"].get("not_current", ()):
                assert derives.derived(change["after"]) == "second", (
                    "an old value in a row that claims to be whole"
                )
            if change["before"] is not None:
                assert derives.derived(change["before"]) in (None, "second"), "an old value in a before image"
            await connector.disconnect()
        await store.close()

    @proves(G.SILENT, Capability.STREAM, Capability.SNAPSHOT)
    async def test_a_change_that_the_system_does_not_report(
        self, new_source: NewSource, system: System, tmp_path: Path
    ) -> None:
        """Usually wrong: the row is never read again, and stays as it was when it was first seen."""
        silent: Silent = self._can(system, "put_silently", "silent_object")
        await silent.put_silently("k", "1")
        source = new_source()
        payloads: list[Any] = []

        async def note(event: Event) -> None:
            if "operation" in event.payload:
                payloads.append(event.payload)

        def has_more_than(count: int) -> bool:
            return len(payloads) > count

        store = SqliteCDCStore(tmp_path / "captured.db", last_state=True)
        async with EventBusFactory.create("memory") as bus:
            connector = SourceConnector("captured", source, bus, store=store)
            await bus.subscribe(f"cdc.{source.system}", note, "noted")
            await connector.start([silent.silent_object])
            await until(lambda: bool(payloads))
            if payloads[0]["metadata"].get("updates") != "incomplete":
                for value in ("2", "1"):  # a row that is as it was once has changed, too
                    count = len(payloads)
                    await silent.put_silently("k", value)
                    await until(partial(has_more_than, count))
                    change = payloads[-1]
                    assert silent.silent_value(change["after"]) == value
                    assert change["as_of"] is not None
                assert len(payloads) == 3, "a row that did not change was published"
            await connector.disconnect()
        await store.close()

    @proves(G.CREDENTIALS, Capability.STREAM)
    async def test_credentials_that_end_while_it_streams(
        self, source: CDCSource, new_source: NewSource, system: System
    ) -> None:
        """Usually wrong: the error looks like a system that does not answer, and is retried until the account is locked; a
        stream that waits for ever.
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
        """Usually wrong: the request is repeated at once, again and again."""
        refuses: Refuses = self._can(system, "refuse_requests", "refused")
        await system.put("first", "v")
        position = await source.position(system.object)
        await refuses.refuse_requests(0.5)
        await system.put("a", "1")
        ((change, _),) = await self.read(source, system.object, position, 1)
        assert system.key(change) == "a"
        assert refuses.refused() <= 3, f"{refuses.refused()} requests while it was told to wait"

    @proves(G.UNEXPECTED, Capability.STREAM)
    async def test_a_proxy_that_answers_instead(self, source: CDCSource, system: System) -> None:
        """Usually wrong: a 403 or 404 ends the capture of the object for good; a row that cannot be read at that moment counts as
        deleted; a page with status 200 counts as an empty answer.
        """
        interrupted: Interrupted = self._can(system, "answer_by_proxy")
        await system.put("k", "first")
        position = await source.position(system.object)
        for status in (200, 302, 400, 403, 404, 407, 408, 451, 502):
            await interrupted.answer_by_proxy(status, 1)
            await system.put("k", f"after {status}")
            ((change, position),) = await self.read(source, system.object, position, 1)
            assert change.operation is Operation.UPDATE
            assert system.value(change.after) == f"after {status}"

    @proves(G.KEYS, Capability.STREAM)
    async def test_an_announcement_of_no_row(self, source: CDCSource, system: System) -> None:
        """Usually wrong: a row with the key null, which all announcements then change."""
        announces: Announces = self._can(system, "announce")
        position = await source.position(system.object)
        await system.put("a", "1")
        await announces.announce()
        await system.put("b", "1")
        found = await self.read(source, system.object, position, 2)
        assert all(None not in change.primary_key.values() for change, _ in found), (
            "a change with a key of null"
        )
        assert [system.key(change) for change, _ in found] == ["a", "b"]
