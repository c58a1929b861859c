from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dimesh import (
    CDCConnector,
    CDCEvent,
    CDCManager,
    CDCOffset,
    CDCOperation,
    Event,
    EventBus,
    EventBusFactory,
    StartAt,
)
from dimesh.backends.cdc.outbox import OutboxOptions, OutboxSource, install, record, watch
from dimesh.cdc import SourceConnector
from dimesh.clock import SystemClock
from dimesh.errors import (
    ConfigurationError,
    SourceObjectError,
    SourcePositionLostError,
    SourceUnavailableError,
)
from dimesh.spi.cdc import Change, ChangeBatch


async def eventually(true: Callable[[], Any], timeout: float = 10.0) -> None:
    async with asyncio.timeout(timeout):
        while not true():
            await asyncio.sleep(0.005)


@pytest.fixture
def app(tmp_path: Path) -> Any:
    connection = sqlite3.connect(tmp_path / "app.db")
    with connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, product TEXT, quantity, photo BLOB)")
        connection.execute("INSERT INTO orders VALUES (1, 'lamp', 2, NULL)")
        watch(connection, "orders")
    yield connection
    connection.close()


def source(tmp_path: Path, **options: Any) -> OutboxSource:
    return OutboxSource(OutboxOptions(path=str(tmp_path / "app.db"), poll=0.01, **options), SystemClock())


@pytest.fixture(params=["memory", "sqlite"])
async def bus(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EventBus]:
    options = {"history": 10_000} if request.param == "memory" else {"path": str(tmp_path / "mesh.db")}
    async with EventBusFactory.create(request.param, **options) as made:
        yield made


async def events_of(bus: EventBus, count: int) -> list[Event]:
    found: list[Event] = []

    async def collect() -> bool:
        page = await bus.door.read("cdc.outbox", StartAt.EARLIEST, 10_000)
        found[:] = [delivery.record.event for delivery in page]
        return len(found) >= count

    async with asyncio.timeout(10):
        while True:
            try:
                if await collect():
                    return found
            except LookupError:
                pass
            await asyncio.sleep(0.01)


def apply(events: list[Event]) -> dict[int, dict[str, Any]]:
    """The table that the events describe."""
    table: dict[int, dict[str, Any]] = {}
    for event in events:
        payload = event.payload
        key = payload["primary_key"]["id"]
        if payload["after"] is None:
            table.pop(key, None)
        else:
            table[key] = payload["after"]
    return table


async def test_snapshot_then_changes_with_before_and_after(
    bus: EventBus, app: sqlite3.Connection, tmp_path: Path
) -> None:
    manager = CDCManager(bus)
    manager.register_connector(SourceConnector("shop", source(tmp_path), bus, "Resource & Supply"))
    await manager.start_connector("shop", ["orders"])
    (snapshot,) = await events_of(bus, 1)
    assert snapshot.event_type == "cdc.snapshot"
    assert snapshot.metadata.tags == {
        "cdc_operation": "snapshot",
        "source_system": "outbox",
        "connector_id": "shop",
        "object_type": "orders",
    }
    with app:
        app.execute("INSERT INTO orders VALUES (2, 'desk', 9223372036854775807, x'00ff')")
        app.execute("UPDATE orders SET quantity = 3 WHERE id = 1")
        app.execute("DELETE FROM orders WHERE id = 1")
    found = (await events_of(bus, 4))[1:]
    by_operation = {e.payload["operation"]: e.payload for e in found}
    assert by_operation["insert"]["after"] == {
        "id": 2,
        "product": "desk",
        "quantity": 9223372036854775807,
        "photo": {"$base16": "00FF"},
    }
    assert by_operation["update"]["before"]["quantity"] == 2
    assert by_operation["update"]["after"]["quantity"] == 3
    assert by_operation["update"]["metadata"]["changed_fields"] == ["quantity"]
    assert by_operation["delete"]["before"]["quantity"] == 3
    assert by_operation["delete"]["after"] is None
    # The events are there a moment before they are counted.
    await eventually(lambda: manager.get_status()["shop"]["objects"]["orders"]["changes"] == 3)
    status = manager.get_status()["shop"]
    assert status["status"] == "connected"
    assert status["error_count"] == 0
    assert set(status) >= {"connector_id", "source_system", "status", "error_count", "last_error", "offsets"}
    await manager.stop_all()
    assert manager.get_connector("shop").status.value == "disconnected"


async def test_a_restart_continues_from_the_stored_position(
    bus: EventBus, app: sqlite3.Connection, tmp_path: Path
) -> None:
    connector = SourceConnector("shop", source(tmp_path), bus)
    await connector.start(["orders"])
    await events_of(bus, 1)
    await eventually(lambda: connector.get_status()["objects"]["orders"]["phase"] == "stream")
    await connector.disconnect()
    with app:
        app.execute("INSERT INTO orders VALUES (5, 'x', 1, NULL)")
    if bus.door.name == "memory":
        again = connector  # a memory bus keeps no positions: the connector does
    else:
        again = SourceConnector("shop", source(tmp_path), bus)
    await again.start(["orders"])
    found = await events_of(bus, 2)
    assert [e.payload["operation"] for e in found] == ["snapshot", "insert"]
    await again.disconnect()


async def test_rolled_back_work_is_not_seen(bus: EventBus, app: sqlite3.Connection, tmp_path: Path) -> None:
    connector = SourceConnector("shop", source(tmp_path), bus)
    await connector.start(["orders"])
    await events_of(bus, 1)
    app.execute("INSERT INTO orders VALUES (9, 'never', 1, NULL)")
    app.rollback()
    with app:
        app.execute("INSERT INTO orders VALUES (10, 'really', 1, NULL)")
    found = await events_of(bus, 2)
    assert [e.payload["primary_key"] for e in found] == [{"id": 1}, {"id": 10}]
    await connector.disconnect()


async def test_a_replaced_database_is_a_gap_that_is_reported_and_repaired(
    bus: EventBus, app: sqlite3.Connection, tmp_path: Path
) -> None:
    connector = SourceConnector("shop", source(tmp_path), bus)
    await connector.start(["orders"])
    await events_of(bus, 1)
    await eventually(lambda: connector.get_status()["objects"]["orders"]["phase"] == "stream")
    await connector.disconnect()
    app.close()
    (tmp_path / "app.db").unlink()
    with sqlite3.connect(tmp_path / "app.db") as fresh:
        fresh.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, product TEXT)")
        fresh.execute("INSERT INTO orders VALUES (1, 'other lamp')")
        watch(fresh, "orders")
    fresh.close()
    again = connector if bus.door.name == "memory" else SourceConnector("shop", source(tmp_path), bus)
    await again.start(["orders"])
    found = await events_of(bus, 4)
    kinds = [e.event_type.value for e in found]
    assert kinds[0] == "cdc.snapshot"
    assert sorted(kinds[1:]) == ["cdc.gap", "cdc.repaired", "cdc.snapshot"]
    gap = next(e for e in found if e.event_type.value == "cdc.gap")
    assert "replaced" in gap.payload["cause"]
    assert again.get_status()["objects"]["orders"]["gaps"] == 1
    await again.disconnect()


async def test_one_bad_object_does_not_stop_the_others(
    bus: EventBus, app: sqlite3.Connection, tmp_path: Path
) -> None:
    connector = SourceConnector("shop", source(tmp_path), bus)
    await connector.start(["nope", "orders"])
    await events_of(bus, 1)
    await eventually(lambda: connector.get_status()["objects"]["nope"]["phase"] == "failed")
    status = connector.get_status()
    assert status["status"] == "error"
    assert "nope" in status["last_error"]
    with app:
        app.execute("INSERT INTO orders VALUES (3, 'x', 1, NULL)")
    await events_of(bus, 2)
    await connector.disconnect()


async def test_pause_and_resume(bus: EventBus, app: sqlite3.Connection, tmp_path: Path) -> None:
    connector = SourceConnector("shop", source(tmp_path), bus)
    await connector.start(["orders"])
    await events_of(bus, 1)
    await eventually(lambda: connector.get_status()["objects"]["orders"]["phase"] == "stream")
    connector.pause()
    with app:
        app.execute("INSERT INTO orders VALUES (3, 'x', 1, NULL)")
    await eventually(lambda: connector.status.value == "paused")
    assert len(await events_of(bus, 1)) == 1
    connector.resume()
    assert len(await events_of(bus, 2)) == 2
    await connector.disconnect()


async def test_a_crash_between_publish_and_save_repeats_with_the_same_ids(
    app: sqlite3.Connection, tmp_path: Path
) -> None:
    class Forgetful:
        def __init__(self) -> None:
            self.values: dict[str, bytes] = {}
            self.fail = False

        async def load(self, key: str) -> bytes | None:
            return self.values.get(key)

        async def save(self, key: str, value: bytes | None) -> None:
            if self.fail:
                raise SourceUnavailableError("power cut")
            assert value is not None
            self.values[key] = value

    state = Forgetful()
    async with EventBusFactory.create("memory", history=1_000) as bus:
        connector = SourceConnector("shop", source(tmp_path), bus, state=state)
        await connector.start(["orders"])
        await eventually(lambda: connector.get_status()["objects"].get("orders", {}).get("phase") == "stream")
        state.fail = True
        with app:
            app.execute("INSERT INTO orders VALUES (3, 'x', 1, NULL)")
        await eventually(lambda: connector.get_status()["error_count"] >= 1)
        await connector.stop()
        state.fail = False
        await connector.start(["orders"])
        found = await events_of(bus, 3)
        assert found[1].event_id == found[2].event_id
        assert apply(found) == {
            1: {"id": 1, "product": "lamp", "quantity": 2, "photo": None},
            3: {"id": 3, "product": "x", "quantity": 1, "photo": None},
        }
        await connector.disconnect()


async def test_a_custom_connector(bus: EventBus) -> None:
    rows = {"a": 1, "b": 2}
    feed: list[CDCEvent] = []

    class Mine(CDCConnector):
        async def get_snapshot(self, object: str) -> AsyncIterator[CDCEvent]:
            for key, value in rows.items():
                yield CDCEvent(
                    CDCOperation.SNAPSHOT, "outbox", object, {"id": key}, None, {"v": value}, sequence="0"
                )

        async def get_changes(self, object: str, since: CDCOffset | None = None) -> AsyncIterator[CDCEvent]:
            for event in feed:
                if (
                    since is None
                    or not since.offset_value.isdigit()
                    or int(event.sequence or 0) > int(since.offset_value)
                ):
                    yield event

    connector = Mine("mine", "outbox", bus, poll=0.01)
    await connector.start(["thing"])
    await events_of(bus, 2)
    feed.append(
        CDCEvent(CDCOperation.UPDATE, "outbox", "thing", {"id": "a"}, {"v": 1}, {"v": 5}, sequence="1")
    )
    feed.append(CDCEvent(CDCOperation.DELETE, "outbox", "thing", {"id": "b"}, {"v": 2}, None, sequence="2"))
    found = await events_of(bus, 4)
    assert [e.payload["operation"] for e in found] == ["snapshot", "snapshot", "update", "delete"]
    await connector.disconnect()


async def test_unknown_connectors_and_objects(bus: EventBus, tmp_path: Path, app: sqlite3.Connection) -> None:
    manager = CDCManager(bus)
    with pytest.raises(ValueError, match="no connector 'x'"):
        await manager.start_connector("x", ["orders"])
    connector = SourceConnector("shop", source(tmp_path), bus)
    manager.register_connector(connector)
    with pytest.raises(ConfigurationError, match="registered already"):
        manager.register_connector(connector)
    with pytest.raises(ConfigurationError, match="list of object names"):
        await manager.start_connector("shop", [])
    with pytest.raises(SourceUnavailableError, match="no database"):
        await SourceConnector("y", source(tmp_path / "nowhere"), bus).start(["orders"])


async def test_retention_that_overtakes_the_reader_is_reported(
    app: sqlite3.Connection, tmp_path: Path
) -> None:
    mine = source(tmp_path, keep_seconds=0.0)
    start = await mine.position("orders")
    with app:
        app.execute("INSERT INTO orders VALUES (3, 'x', 1, NULL)")
    stream = mine.stream("orders", start)
    batch = await anext(stream)
    await asyncio.sleep(0.01)
    await mine.acknowledge("orders", batch.position)
    assert app.execute("SELECT count(*) FROM dimesh_outbox").fetchone() == (0,)
    await stream.aclose()
    with pytest.raises(SourcePositionLostError, match="removed"):
        await anext(mine.stream("orders", start))
    await mine.close()


async def test_entries_written_by_the_application(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "app.db") as app:
        install(app)
        record(app, "invoice", "insert", {"id": 1}, None, {"id": 1, "total": 5})
        with pytest.raises(ConfigurationError, match="operation"):
            record(app, "invoice", "upsert", {"id": 1})
    app.close()
    mine = source(tmp_path)
    check = await mine.check()
    assert check.ok
    assert "no snapshot" in check.objects["invoice"]
    with pytest.raises(SourceObjectError, match="watched are: none"):
        await mine.position("other")
    position = await mine.position("invoice")
    identity = position.split(b":")[0]
    async with aclosing(cast(Any, mine.stream("invoice", identity + b":0"))) as stream:
        batch: ChangeBatch = await anext(stream)
    (change,) = batch.items
    assert isinstance(change, Change)
    assert change.after == {"id": 1, "total": 5}
    await mine.close()


operations = st.lists(
    st.tuples(
        st.sampled_from(["insert", "update", "delete"]), st.integers(1, 6), st.integers(-(2**63), 2**63 - 1)
    ),
    max_size=30,
)


@settings(max_examples=15, deadline=None)
@given(operations, st.integers(0, 30))
def test_replaying_the_feed_gives_the_table(work: list[tuple[str, int, int]], interrupted_at: int) -> None:
    import tempfile

    async def run(folder: Path) -> None:
        app = sqlite3.connect(folder / "app.db")
        with app:
            app.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, n INTEGER)")
            watch(app, "orders")
        async with EventBusFactory.create("memory", history=1_000) as bus:
            connector = SourceConnector("shop", source(folder), bus)
            await connector.start(["orders"])
            for n, (operation, key, value) in enumerate(work):
                if n == interrupted_at:
                    await connector.stop()
                    await connector.start(["orders"])
                with app:
                    if operation == "insert":
                        app.execute("INSERT OR REPLACE INTO orders VALUES (?, ?)", (key, value))
                    elif operation == "update":
                        app.execute("UPDATE orders SET n = ? WHERE id = ?", (value, key))
                    else:
                        app.execute("DELETE FROM orders WHERE id = ?", (key,))
                await asyncio.sleep(0)
            final = {i: {"id": i, "n": n} for i, n in app.execute("SELECT * FROM orders")}
            async with asyncio.timeout(10):
                while True:
                    page = [d.record.event for d in bus.door._backend.history("cdc.outbox")]  # type: ignore[attr-defined]
                    if apply(page) == final:
                        break
                    await asyncio.sleep(0.005)
            await connector.disconnect()
        app.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))
