"""What rows looked like last: before images and whole rows where the source gives neither."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dimesh import EventBus, EventBusFactory, SqliteCDCStore
from dimesh.cdc import SourceConnector
from dimesh.clock import SystemClock
from dimesh.errors import SourceUnavailableError
from dimesh.spi.cdc import Gap, Operation

from .conftest import eventually, published, streaming
from .scripted import START, ScriptedSource, change, row

UPDATE, DELETE, INSERT = Operation.UPDATE, Operation.DELETE, Operation.INSERT


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteCDCStore]:
    made = SqliteCDCStore(tmp_path / "cdc.db")
    yield made
    await made.close()


def said(event: Any, *names: str) -> tuple[Any, ...]:
    return tuple(event.payload[name] for name in names)


async def test_the_stored_state_is_the_before_of_a_change_without_one(
    any_bus: EventBus, store: SqliteCDCStore
) -> None:
    source = ScriptedSource([row(1, name="Ada", city="London"), row(2, name="Bob")])
    connector = SourceConnector("crm", source, any_bus, store=store)
    await connector.start(["contact"])
    await streaming(connector)
    # One batch: each change of a row stands on the one before.
    await source.say(
        change("u1", UPDATE, 1, {"id": 1, "name": "Eve", "city": "London"}),
        change("u2", UPDATE, 1, {"id": 1, "name": "Eve"}),
        change("d1", DELETE, 1),
        change("i1", INSERT, 1, {"id": 1, "name": "New"}),
    )
    await source.say(change("u3", UPDATE, 1, {"id": 1, "name": "Newer"}), change("d2", DELETE, 2))
    u1, u2, d1, i1, u3, d2 = (await published(any_bus, 8))[2:]
    names = ("before", "before_from", "changed_fields")
    assert said(u1, *names) == ({"id": 1, "name": "Ada", "city": "London"}, "cache", ["name"])
    assert said(u2, *names) == ({"id": 1, "name": "Eve", "city": "London"}, "cache", ["city"])
    assert said(d1, *names) == ({"id": 1, "name": "Eve"}, "cache", [])
    assert said(i1, *names) == (None, "none", [])
    assert said(u3, *names) == ({"id": 1, "name": "New"}, "cache", ["name"])
    assert said(d2, *names) == ({"id": 2, "name": "Bob"}, "cache", [])
    await connector.disconnect()


async def test_the_source_takes_precedence_over_the_stored_state(
    any_bus: EventBus, store: SqliteCDCStore
) -> None:
    source = ScriptedSource([row(1, name="Ada")])
    connector = SourceConnector("crm", source, any_bus, store=store)
    await connector.start(["contact"])
    await streaming(connector)
    await source.say(change("u1", UPDATE, 1, {"name": "Eve"}, partial=True, before={"id": 1, "name": "Zoe"}))
    update = (await published(any_bus, 2))[1]
    assert said(update, "before", "before_from", "after") == (
        {"id": 1, "name": "Zoe"},
        "native",
        {"id": 1, "name": "Eve"},
    )
    await connector.disconnect()


async def test_a_partial_change_is_completed_or_marked_as_partial(
    any_bus: EventBus, store: SqliteCDCStore
) -> None:
    source = ScriptedSource([row(1, name="Ada", city="London")])
    connector = SourceConnector("crm", source, any_bus, store=store)
    await connector.start(["contact"])
    await streaming(connector)
    await source.say(
        change("u1", UPDATE, 1, {"city": "Paris"}, partial=True),
        change("u2", UPDATE, 1, {"name": None}, partial=True, changed_fields=["name"]),
        change("u3", UPDATE, 9, {"city": "Rome"}, partial=True),
        change("u4", UPDATE, 9, {"city": "Oslo"}, partial=True),
    )
    u1, u2, u3, u4 = (await published(any_bus, 5))[1:]
    names = ("before", "after", "partial", "changed_fields")
    london, paris = ({"id": 1, "name": "Ada", "city": city} for city in ("London", "Paris"))
    assert said(u1, *names) == (london, paris, False, ["city"])
    assert said(u2, *names) == (paris, {**paris, "name": None}, False, ["name"])
    assert said(u3, *names) == (None, {"city": "Rome"}, True, ["city"])
    assert said(u4, *names) == (None, {"city": "Oslo"}, True, ["city"])  # a patch is no row to stand on
    await connector.disconnect()


async def test_fields_that_changes_leave_out_are_named_and_in_no_stored_before(
    any_bus: EventBus, store: SqliteCDCStore
) -> None:
    """A row that was read later is whole; its changed fields are those that changes tell of."""
    source = ScriptedSource([row(1, name="Ada", score=1)])
    connector = SourceConnector("crm", source, any_bus, store=store)
    await connector.start(["contact"])
    await streaming(connector)
    left_out = {"not_current": ("score",)}
    await source.say(
        change("u1", after={"name": "Eve"}, partial=True, changed_fields=["name"], **left_out),
        change("u2", after={"id": 1, "name": "Eva", "score": 3}, as_of=START, **left_out),
        change("d1", DELETE, **left_out),
    )
    one, two, three = (event.payload for event in (await published(any_bus, 4))[1:])
    assert (one["partial"], one["after"]) == (False, {"id": 1, "name": "Eve", "score": 1})
    assert [p["metadata"].get("not_current") for p in (one, two, three)] == [["score"], None, ["score"]]
    assert [p["before"] for p in (one, two)] == [{"id": 1, "name": "Ada"}, {"id": 1, "name": "Eve"}]
    assert two["changed_fields"] == ["name"]
    assert three["before"] is None  # it may contain changes that are later than the reading
    await connector.disconnect()


async def test_changes_that_the_snapshot_may_contain_are_marked_and_get_no_before(
    any_bus: EventBus, store: SqliteCDCStore
) -> None:
    """The position is older than the snapshot: first comes what its rows hold already."""
    old, end = datetime(2020, 1, 1, tzinfo=UTC), START
    source = ScriptedSource([row(1, name="third", mail="c")])
    source.between_pages.clear()
    connector = SourceConnector("crm", source, any_bus, store=store)
    await connector.start(["contact"])
    await eventually(lambda: connector.get_status()["objects"]["contact"]["phase"] == "snapshot")
    await source.say(
        change("u1", UPDATE, 1, {"name": "second"}, partial=True, timestamp=old),
        change("u2", UPDATE, 1, {"name": "third"}, partial=True, timestamp=old),
    )
    await source.say(change("u3", UPDATE, 1, {"mail": "d"}, partial=True, timestamp=end))
    source.between_pages.set()
    u1, u2, u3 = (await published(any_bus, 4))[1:]
    names = ("during_snapshot", "before", "after")
    assert said(u1, *names) == (True, None, {"id": 1, "name": "second", "mail": "c"})
    assert said(u2, *names) == (True, None, {"id": 1, "name": "third", "mail": "c"})
    third = {"id": 1, "name": "third", "mail": "c"}
    assert said(u3, *names) == (False, third, {**third, "mail": "d"})
    await connector.disconnect()


async def test_a_stop_among_changes_that_the_snapshot_contains_is_made_up_for_at_the_next_start(
    any_bus: EventBus, store: SqliteCDCStore
) -> None:
    """Until then, a consumer has an older state of the row than the snapshot had."""
    old = datetime(2020, 1, 1, tzinfo=UTC)
    source = ScriptedSource([row(1, name="third")])
    source.between_pages.clear()
    connector = SourceConnector("crm", source, any_bus, store=store)
    await connector.start(["contact"])
    await eventually(lambda: connector.get_status()["objects"]["contact"]["phase"] == "snapshot")
    await source.say(change("u1", UPDATE, 1, {"id": 1, "name": "second"}, timestamp=old))
    source.between_pages.set()
    await published(any_bus, 2)
    await eventually(lambda: source.acknowledged)
    await connector.stop()
    await source.say(change("u2", UPDATE, 1, {"id": 1, "name": "third"}, timestamp=old))
    await connector.start(["contact"])
    found = [event.payload for event in await published(any_bus, 3)]
    assert [(p["after"]["name"], p["snapshot"], p["during_snapshot"]) for p in found] == [
        ("third", True, False), ("second", False, True), ("third", False, True),
    ]  # fmt: skip
    await connector.disconnect()


@pytest.mark.parametrize("how", ["change", "repair"])
async def test_changes_that_a_row_read_later_may_contain_get_no_before(
    any_bus: EventBus, store: SqliteCDCStore, how: str
) -> None:
    """The source said that there was a change and not what: its row was read afterwards, and is newer than what comes next."""
    old, later = datetime(2020, 1, 1, tzinfo=UTC), datetime.now(UTC) + timedelta(hours=1)
    source = ScriptedSource([row(1, name="first")])
    connector = SourceConnector("crm", source, any_bus, store=store)
    await connector.start(["contact"])
    await streaming(connector)
    told = change("u1", UPDATE, 1, {"id": 1, "name": "third"}, timestamp=old, as_of=datetime.now(UTC))
    if how == "repair":
        told = replace(told, as_of=None)
        await source.say(Gap("contact", "not told", resnapshot=False, repair=[told]))
    else:
        await source.say(told)
    await source.say(change("u2", UPDATE, 1, {"name": "second"}, partial=True, timestamp=old))
    await source.say(change("u3", UPDATE, 1, {"name": "third"}, partial=True, timestamp=old))
    await source.say(change("u4", UPDATE, 1, {"name": "fourth"}, partial=True, timestamp=later))
    events = await published(any_bus, 7 if how == "repair" else 5)
    u1, u2, u3, u4 = [event for event in events if event.event_type.value == "cdc.update"]
    assert u1.payload["as_of"] is not None
    assert u2.payload["as_of"] is None
    assert said(u2, "before", "after") == (None, {"id": 1, "name": "second"})
    assert said(u3, "before", "after") == (None, {"id": 1, "name": "third"})
    assert said(u4, "before", "after") == ({"id": 1, "name": "third"}, {"id": 1, "name": "fourth"})
    await connector.disconnect()


async def test_a_clock_that_may_be_wrong_gives_no_before(any_bus: EventBus, store: SqliteCDCStore) -> None:
    """A change a moment after its row was read may be in the row, if the source's clock is ahead."""
    source = ScriptedSource([row(1, name="Ada")])
    connector = SourceConnector("crm", source, any_bus, store=store, clock_skew=3_600.0)
    await connector.start(["contact"])
    await streaming(connector)
    await source.say(change("u1", UPDATE, 1, {"id": 1, "name": "Eve"}, timestamp=datetime.now(UTC)))
    await source.say(change("u2", UPDATE, 1, {"id": 1, "name": "Zoe"}))
    u1, u2 = (await published(any_bus, 3))[1:]
    assert u1.payload["before"] is None
    assert u2.payload["before"] == {"id": 1, "name": "Eve"}
    await connector.disconnect()


async def test_a_repeated_change_is_not_its_own_before(any_bus: EventBus, store: SqliteCDCStore) -> None:
    source = ScriptedSource([row(1, name="Ada", city="London")])
    connector = SourceConnector("crm", source, any_bus, store=store)
    await connector.start(["contact"])
    await streaming(connector)
    first = change("u1", UPDATE, 1, {"name": "Eve"}, partial=True)
    second = change("u2", UPDATE, 1, {"name": "Zoe"}, partial=True)
    await source.say(first, second)
    await source.say(first, second)
    await source.say(change("u3", UPDATE, 1, {"city": "Rome"}, partial=True))
    again, again_too, after = (await published(any_bus, 6))[3:]
    for event in (again, again_too):
        assert said(event, "before", "partial") == (None, True)
    assert after.payload["before"] == {"id": 1, "name": "Zoe", "city": "London"}
    assert after.payload["after"] == {"id": 1, "name": "Zoe", "city": "Rome"}
    await connector.disconnect()


async def test_row_states_survive_a_restart(tmp_path: Path) -> None:
    source = ScriptedSource([row(1, name="Ada")])
    for number, name in enumerate(("Eve", "Zoe", "Ann"), 2):
        store = SqliteCDCStore(tmp_path / "cdc.db")
        async with EventBusFactory.create("sqlite", path=str(tmp_path / "mesh.db")) as bus:
            connector = SourceConnector("crm", source, bus, store=store)
            await connector.start(["contact"])
            await streaming(connector)
            await source.say(change(name, UPDATE, 1, {"id": 1, "name": name}))
            events = await published(bus, number)
            await connector.disconnect()
        await store.close()
    assert [e.payload["before"] and e.payload["before"]["name"] for e in events] == [
        None,
        "Ada",
        "Eve",
        "Zoe",
    ]


async def test_a_repeat_after_a_crash_has_the_same_before(tmp_path: Path) -> None:
    """Published, and then the position was not saved: the same changes come again."""

    class Unsaved:
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

    state, store = Unsaved(), SqliteCDCStore(tmp_path / "cdc.db")
    source = ScriptedSource([row(1, name="Ada"), row(2, name="Bob")])
    async with EventBusFactory.create("memory", history=1_000) as bus:
        connector = SourceConnector("crm", source, bus, state=state, store=store)
        await connector.start(["contact"])
        await streaming(connector)
        state.fail = True
        await source.say(
            change("u1", UPDATE, 1, {"id": 1, "name": "Eve"}),
            change("u2", UPDATE, 1, {"id": 1, "name": "Zoe"}),
            change("d1", DELETE, 2),
        )
        await eventually(lambda: connector.get_status()["error_count"] >= 1)
        await connector.stop()
        state.fail = False
        await connector.start(["contact"])
        events = [e for e in await published(bus, 8) if not e.payload["snapshot"]]
        assert [e.event_id for e in events[:3]] == [e.event_id for e in events[3:6]]
        assert [e.payload["before"]["name"] for e in events[:3]] == ["Ada", "Eve", "Bob"]
        assert [e.payload["before"]["name"] for e in events[3:6]] == ["Ada", "Eve", "Bob"]
        await connector.disconnect()
    await store.close()


@pytest.mark.parametrize("old", ["store", "bus"])
async def test_an_old_copy_of_either_file_gives_no_wrong_before(tmp_path: Path, old: str) -> None:
    source = ScriptedSource([row(1, name="Ada")])
    files = {"store": tmp_path / "cdc.db", "bus": tmp_path / "mesh.db"}
    for number, names in enumerate((["a"], ["b", "c", "d"], ["e"])):
        if number == 2:
            for extra in tmp_path.glob(f"{files[old].name}-*"):
                extra.unlink()
            shutil.copy(tmp_path / "copy", files[old])
        store = SqliteCDCStore(files["store"])
        async with EventBusFactory.create("sqlite", path=str(files["bus"])) as bus:
            connector = SourceConnector("crm", source, bus, store=store)
            await connector.start(["contact"])
            await streaming(connector)
            for name in names:
                await source.say(change(name, UPDATE, 1, {"id": 1, "name": name}))
            await eventually(partial(_at_the_end, connector, source))
            events = await published(bus, 1)
            await connector.disconnect()
        await store.close()
        if number == 0:
            shutil.copy(files[old], tmp_path / "copy")
    before = events[-1].payload["before"]
    assert events[-1].payload["after"]["name"] == "e"
    assert before is None or before["name"] == "d"


async def test_without_last_state_only_keys_are_stored(any_bus: EventBus, tmp_path: Path) -> None:
    store = SqliteCDCStore(tmp_path / "cdc.db", last_state=False)
    source = ScriptedSource([row(1, name="Ada")])
    connector = SourceConnector("crm", source, any_bus, store=store)
    await connector.start(["contact"])
    await streaming(connector)
    await source.say(change("u1", UPDATE, 1, {"name": "Eve"}, partial=True))
    update = (await published(any_bus, 2))[1]
    assert said(update, "before", "after", "partial") == (None, {"name": "Eve"}, True)
    await connector.disconnect()
    await store.close()
    with sqlite3.connect(tmp_path / "cdc.db") as file:
        assert file.execute("SELECT key, row FROM rows").fetchall() == [('{"id": 1}', None)]
    file.close()
    # Switched on later, what went by meanwhile is not claimed.
    store = SqliteCDCStore(tmp_path / "cdc.db")
    again = SourceConnector("crm", source, any_bus, store=store)
    await again.start(["contact"])
    await source.say(change("u2", UPDATE, 1, {"name": "Zoe"}, partial=True))
    assert (await published(any_bus, 3))[2].payload["before"] is None
    await again.disconnect()
    await store.close()


async def test_a_file_of_the_first_format_is_migrated(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "cdc.db") as file:
        file.executescript(
            "CREATE TABLE state (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;"
            "CREATE TABLE rows (source TEXT NOT NULL, key TEXT NOT NULL, generation INTEGER NOT NULL,"
            " PRIMARY KEY (source, key)) WITHOUT ROWID;"
            "INSERT INTO rows VALUES ('cdc/crm/contact', 'k', 0); PRAGMA user_version = 1"
        )
    file.close()
    store = SqliteCDCStore(tmp_path / "cdc.db")
    assert await store.stale_keys("cdc/crm/contact", 1, 10) == ["k"]
    assert await store.rows("cdc/crm/contact", ["k"]) == {}
    await store.close()


async def test_closing_waits_for_the_work_of_a_cancelled_caller(tmp_path: Path) -> None:
    for n in range(20):
        store = SqliteCDCStore(tmp_path / "cdc.db")
        saving = [asyncio.ensure_future(store.save(f"{n}/{i}", b"x")) for i in range(20)]
        await asyncio.sleep(0)
        for one in saving:
            one.cancel()
        await asyncio.gather(*saving, return_exceptions=True)
        await store.close()
        with closing(sqlite3.connect(tmp_path / "cdc.db")) as file:
            assert file.execute("PRAGMA journal_mode = DELETE").fetchone() == (
                "delete",
            )  # nobody else has it
            assert file.execute("SELECT count(*) FROM state").fetchone() == ((n + 1) * 20,)


class Ticks(SystemClock):
    """Each look at the clock is a millisecond later: what happens is in order."""

    def __init__(self) -> None:
        self._ticks = itertools.count(1_900_000_000_000)

    def time(self) -> float:  # type: ignore[override]
        return next(self._ticks) / 1_000

    async def sleep(self, delay: float) -> None:  # type: ignore[override]
        await asyncio.sleep(min(delay, 0.001))


class Flaky(SqliteCDCStore):
    """Some of its answers get lost."""

    failing: Sequence[bool] = ()

    async def _run(self, work: Any) -> Any:
        found = await super()._run(work)
        if self.failing:
            lost, *self.failing = self.failing
            if lost:
                raise SourceUnavailableError("power cut")
        return found


actions = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "patch", "patch", "delete", "batch", "batch", "restart"]),
        st.integers(1, 3),
        st.integers(0, 5),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(actions, st.lists(st.booleans(), max_size=25), st.integers(0, 20))
@pytest.mark.slow
def test_a_before_is_never_wrong(work: list[tuple[str, int, int]], failing: list[bool], head: int) -> None:
    """Whatever fails, and wherever the snapshot falls: a ``before`` is the row as it was, or is not there; and a row that
    is said to be whole, outside the hand-over, is the row as it is.
    """

    async def run(store: Flaky) -> None:
        clock = Ticks()
        source = ScriptedSource()
        # Rows that were there before the position, so that the stream does not begin with their insert.
        table: dict[int, dict[str, Any]] = {key: {"id": key, "a": -key, "b": -key} for key in (1, 2)}
        truth: dict[str, tuple[Any, Any]] = {}
        batch: list[Any] = []
        numbers = itertools.count()

        def act(what: str, key: int, value: int) -> None:
            was = table.get(key)
            stamp = {"timestamp": datetime.fromtimestamp(clock.time(), UTC)}
            name = f"c{next(numbers)}"
            if what == "delete":
                if was is None:
                    return
                del table[key]
                batch.append(change(name, DELETE, key, **stamp))
            elif was is None:
                table[key] = {"id": key, "a": value, "b": value}
                batch.append(change(name, INSERT, key, dict(table[key]), **stamp))
            elif what == "patch":
                table[key] = {**was, "a": value}
                batch.append(change(name, UPDATE, key, {"a": value}, partial=True, **stamp))
            else:
                table[key] = {"id": key, "b": value, "a": was["a"]}
                batch.append(change(name, UPDATE, key, dict(table[key]), **stamp))
            truth[name] = (was, table.get(key))

        async def flush() -> None:
            if batch:
                await source.say(*batch)
                batch.clear()

        async with EventBusFactory.create("memory", history=10_000, clock=clock) as bus:
            connector = SourceConnector("crm", source, bus, store=store, clock_skew=0.0, seed=1)

            async def snapshot() -> None:
                await flush()
                stamp = datetime.fromtimestamp(clock.time(), UTC)
                source.rows = [
                    change(f"row{k}", Operation.SNAPSHOT, k, dict(v), timestamp=stamp)
                    for k, v in table.items()
                ]
                store.failing = failing
                source.between_pages.set()
                await streaming(connector)

            source.between_pages.clear()
            await connector.start(["contact"])
            await eventually(lambda: connector.get_status()["objects"]["contact"]["phase"] == "snapshot")
            for n, (what, key, value) in enumerate(work):
                if n == head:
                    await snapshot()
                if what == "batch":
                    await flush()
                elif what == "restart" and n > head:
                    await connector.stop()
                    assert connector.get_status()["objects"]["contact"]["phase"] == "stopped"
                    while connector.get_status()["objects"]["contact"]["phase"] == "stopped":
                        with suppress(SourceUnavailableError):  # whether to pause could not be asked
                            await connector.start(["contact"])
                else:
                    act(what, key, value)
            if not source.between_pages.is_set():
                await snapshot()
            store.failing = ()
            await flush()
            await eventually(partial(_at_the_end, connector, source))
            events = [d.record.event.payload for d in bus.door._backend.history("cdc.crm")]  # type: ignore[attr-defined]
            identities = [item.identity for items in source.log for item in items]  # type: ignore[union-attr]
            await connector.disconnect()
        by_time = {c.timestamp.isoformat(): c.identity for items in source.log for c in items}  # type: ignore[union-attr]
        assert len(by_time) == len(identities)
        last: dict[int, Any] = {}
        for said in events:
            last[said["primary_key"]["id"]] = said
            if said["snapshot"]:
                continue
            was, now = truth[by_time[said["timestamp"]]]
            assert said["before"] is None or said["before"] == was
            if not said["during_snapshot"] and not said["partial"]:
                assert said["after"] == now
        mirror = {k: said["after"] for k, said in last.items() if said["after"] is not None}
        if not any(said["partial"] for said in last.values()):
            assert mirror == table

    async def within() -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = Flaky(Path(folder) / "cdc.db")
            try:
                await run(store)
            finally:
                await store.close()

    asyncio.run(within())


def _at_the_end(connector: SourceConnector, source: ScriptedSource) -> bool:
    status = connector.get_status()
    at_end = str(status["offsets"].get("contact")) == str(len(source.log))
    return at_end and status["objects"]["contact"]["phase"] == "stream"
