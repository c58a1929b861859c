"""One flipped byte anywhere in a file: a read gives the true value or a StorageError, never a wrong answer."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dimesh.backends.bus.sqlite.backend import SqliteBackend
from dimesh.backends.bus.sqlite.options import SqliteOptions
from dimesh.backends.registry.sqlite import SqliteStore, SqliteStoreOptions
from dimesh.backends.state.sqlite import SqliteCDCStore
from dimesh.clock import SystemClock
from dimesh.errors import DimeshError, StorageError
from dimesh.spi.bus import StartAt
from dimesh.spi.registry import Reference, SchemaContent, StoredSchema

Reads = Mapping[str, Callable[[], Awaitable[Any]]]
FLIPS = 150
"""The damaged places near the content, the header and the heads of pages; half as many are anywhere."""


def places(whole: bytes, needles: list[bytes], rng: random.Random) -> list[int]:
    """Offsets to damage: everything around the content, the header, the page heads, and some of the rest."""
    chosen = set(range(100))
    for needle in needles:
        at = whole.find(needle)
        assert at >= 0, needle
        while at >= 0:
            chosen.update(range(max(at - 12, 0), min(at + len(needle) + 12, len(whole))))
            at = whole.find(needle, at + 1)
    for page in range(0, len(whole), 4096):
        chosen.update(range(page, page + 24))
    used = [at for at in range(len(whole)) if whole[at]]
    return sorted(rng.sample(sorted(chosen), min(FLIPS, len(chosen)))) + rng.sample(used, FLIPS // 2)


async def outcome(read: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await read()
    except StorageError as error:
        return error


# -- the registry ------------------------------------------------------------------------------------


def registry(path: Path) -> SqliteStore:
    return SqliteStore(SqliteStoreOptions(path=str(path)), SystemClock())


def registry_reads(store: SqliteStore) -> Reads:
    return {
        "orders": lambda: store.numbers("orders", deleted=True),
        "orders that are not deleted": lambda: store.numbers("orders"),
        "the latest": lambda: store.get("orders"),
        "a deleted one": lambda: store.get("orders", 1, deleted=True),
        "customers": lambda: store.get("customers"),
        "unknown": lambda: store.get("unknown"),
        "by content": lambda: store.find("orders", content(TEXTS[1])),
        "by the content of another subject": lambda: store.find("orders", content(TEXTS[2])),
        "by guid": lambda: store.by_guid(content(TEXTS[2]).guid),
        "users": lambda: store.users(2),
        "referrers": lambda: store.referenced_by("orders", 2),
        "no referrers": lambda: store.referenced_by("customers", 1),
        "a snapshot": lambda: store.snapshot("orders"),
        "an empty snapshot": lambda: store.snapshot("unknown"),
        "subjects": lambda: store.subjects(),
        "all subjects": lambda: store.subjects(deleted=True),
        "id 1": lambda: store.by_id(1),
        "id 2": lambda: store.by_id(2),
        "id 9": lambda: store.by_id(9),
        "contexts": lambda: store.contexts(),
        "settings": lambda: store.get_settings("orders"),
        "global settings": lambda: store.get_settings(None),
        "no settings": lambda: store.get_settings("customers"),
    }


TEXTS = ('{"type": "object"}', '{"type": "object", "title": "two"}', '{"type": "string"}')


def content(text: str, references: tuple[Reference, ...] = ()) -> SchemaContent:
    return SchemaContent("json", text, text, references)


async def add(
    store: SqliteStore, subject: str, text: str, references: tuple[Reference, ...] = ()
) -> StoredSchema:
    revision = (await store.snapshot(subject)).revision
    return await store.append(subject, content(text, references), revision=revision, notes={"owner": "sales"})


async def fill_registry(path: Path) -> list[bytes]:
    store = registry(path)
    await store.open()
    for text in TEXTS[:2]:
        await add(store, "orders", text)
    await add(store, "customers", TEXTS[2], (Reference("order", "orders", 2),))
    await store.delete("orders", 1)
    await store.set_settings("orders", {"mode": "FULL"})
    await store.set_settings(None, {"mode": "BACKWARD"})
    await store.close()
    return [*(text.encode() for text in TEXTS), b"orders", b"customers", b"sales", b"FULL", b"BACKWARD"]


# -- the state of capture ----------------------------------------------------------------------------

SOURCE, OTHER = "cdc/crm/contact", "cdc/crm/deal"


def state_reads(store: SqliteCDCStore) -> Reads:
    return {
        "position": lambda: store.load("cdc/crm/contact"),
        "other position": lambda: store.load("cdc/crm/deal"),
        "no position": lambda: store.load("cdc/crm/none"),
        "paused": lambda: store.paused("crm"),
        "rows": lambda: store.rows(SOURCE, [f"contact\n\n{n}" for n in range(6)]),
        "a row that is not there": lambda: store.rows(SOURCE, ["contact\n\n77"]),
        "other rows": lambda: store.rows(OTHER, ["deal\n\n1"]),
        "stale": lambda: store.stale_keys(SOURCE, 5, 100),
        "not stale": lambda: store.stale_keys(SOURCE, 4, 100),
    }


async def fill_state(path: Path) -> list[bytes]:
    store = SqliteCDCStore(path)
    await store.save("cdc/crm/contact", b"position-one")
    await store.save("cdc/crm/deal", b"position-two")
    rows = {f"contact\n\n{n}": f"the state of {n}".encode() for n in range(4)}
    await store.stage(SOURCE, 1, rows, [], 4, {})
    await store.stage(SOURCE, 2, {"contact\n\n4": b"the state of 4"}, [], 5, {"contact\n\n4": None})
    await store.stage(OTHER, 1, {"deal\n\n1": b"a deal"}, [], 1, {})
    await store.pause("crm", "deal")
    await store.close()
    return [
        b"position-one",
        b"position-two",
        SOURCE.encode(),
        OTHER.encode(),
        b"the state of",
        b"a deal",
        b"pause of",
    ]


# -- the state that the sqlite bus keeps -------------------------------------------------------------


def bus(path: Path) -> SqliteBackend:
    return SqliteBackend(SqliteOptions(path=str(path)), SystemClock())


def bus_reads(backend: SqliteBackend) -> Reads:
    return {key: (lambda key=key: backend.load_state(key)) for key in ("position/a", "position/b", "none")}


async def fill_bus(path: Path) -> list[bytes]:
    backend = bus(path)
    await backend.open()
    await backend.append("t", [], state={"position/a": b"seventeen", "position/b": b"\x00\x01"})
    await backend.close()
    return [b"position/a", b"seventeen", b"position/b"]


KINDS: dict[str, tuple[Any, Any, Any]] = {
    "registry": (fill_registry, registry, registry_reads),
    "state": (fill_state, SqliteCDCStore, state_reads),
    "bus": (fill_bus, bus, bus_reads),
}


async def read_all(kind: str, path: Path) -> dict[str, Any]:
    _, make, reads = KINDS[kind]
    store = make(path)
    results: dict[str, Any] = {}
    try:
        if hasattr(store, "open"):
            await store.open()
        for name, read in reads(store).items():
            results[name] = await outcome(read)
    except StorageError as error:
        return {"open": error}
    finally:
        await store.close()
    return results


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "registry" else pytest.mark.slow) for kind in KINDS]
)
async def test_a_flipped_byte_is_never_served_as_truth(kind: str, tmp_path: Path) -> None:
    original = tmp_path / "original.db"
    needles = await KINDS[kind][0](original)
    whole = original.read_bytes()
    truth = await read_all(kind, original)
    assert not any(isinstance(value, Exception) for value in truth.values()), truth
    rng = random.Random(kind)
    found = 0
    copy = tmp_path / "copy.db"
    for at in places(whole, needles, rng):
        damaged = bytearray(whole)
        damaged[at] ^= rng.choice((1 << rng.randrange(8), rng.randrange(1, 256)))
        for leftover in tmp_path.glob("copy.db*"):
            leftover.unlink()
        copy.write_bytes(damaged)
        for name, value in (await read_all(kind, copy)).items():
            if isinstance(value, StorageError):
                found += 1
                assert str(copy) in str(value)
            else:
                assert value == truth[name], f"byte {at}: {name}"
    assert found > 50


@pytest.mark.parametrize(
    ("kind", "needle", "row"),
    [
        ("registry", b'{"type": "string"}', "row '.', 3 of table 'contents'"),
        ("registry", b"sales", "row 'orders', 1 of table 'versions'"),
        ("registry", b"FULL", "row 'orders' of table 'settings'"),
        ("state", b"position-two", "row 'cdc/crm/deal' of table 'state'"),
        ("state", b"the state of 3", r"row 'cdc/crm/contact', 'contact\n\n3' of table 'rows'"),
        ("bus", b"seventeen", "row 'position/a' of table 'state'"),
    ],
)
async def test_the_error_names_the_row_and_what_to_do(
    kind: str, needle: bytes, row: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.db"
    await KINDS[kind][0](path)
    data = path.read_bytes()
    path.write_bytes(data.replace(needle, needle[:-1] + bytes([needle[-1] ^ 1])))
    errors = [
        str(value) for value in (await read_all(kind, path)).values() if isinstance(value, StorageError)
    ]
    assert any(row in error and "estore the" in error and "from a backup" in error for error in errors), (
        errors
    )


async def test_damage_of_one_source_leaves_the_others_alone(tmp_path: Path) -> None:
    """One damaged row stops the object that it belongs to, and 'reset' lets that one begin again."""
    path = tmp_path / "state.db"
    await fill_state(path)
    path.write_bytes(path.read_bytes().replace(b"the state of 3", b"the state of 2"))
    store = SqliteCDCStore(path)
    with pytest.raises(StorageError, match="cdc reset"):
        await store.rollback_uncommitted(SOURCE, 2)
    with pytest.raises(StorageError):
        await store.stale_keys(SOURCE, 5, 10)
    await store.rollback_uncommitted(OTHER, 1)
    assert await store.rows(OTHER, ["deal\n\n1"]) == {"deal\n\n1": b"a deal"}
    assert await store.load(SOURCE) == b"position-one"
    await store.clear(SOURCE)
    assert await store.stale_keys(SOURCE, 5, 10) == []
    await store.stage(SOURCE, 1, {"k": b"v"}, [], 1, {})
    await store.close()
    assert await store.rows(SOURCE, ["k"]) == {"k": b"v"}
    await store.close()


async def test_an_update_does_not_approve_damage(tmp_path: Path) -> None:
    """Whoever changes a part of a row checks the rest of it: it would get a new checksum."""
    path = tmp_path / "registry.db"
    await fill_registry(path)
    path.write_bytes(path.read_bytes().replace(b"sales", b"salez"))
    store = registry(path)
    await store.open()
    for change in (
        lambda: store.delete("orders", 2),
        lambda: store.set_notes("orders", 2, {}),
        lambda: store.append("orders", content("{}"), revision=""),
    ):
        with pytest.raises(StorageError, match=r"'orders', [12]"):
            await change()
    with pytest.raises(StorageError):
        await store.numbers("orders", deleted=True)
    await store.close()


# -- files of earlier versions -----------------------------------------------------------------------

REGISTRY_1 = (
    "CREATE TABLE contents (id INTEGER PRIMARY KEY AUTOINCREMENT, format TEXT NOT NULL, text TEXT NOT NULL,"
    " UNIQUE (format, text))",
    "CREATE TABLE subjects (name TEXT PRIMARY KEY, highest INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE versions (subject TEXT NOT NULL, version INTEGER NOT NULL, content INTEGER NOT NULL,"
    " created REAL NOT NULL, deleted INTEGER NOT NULL DEFAULT 0, metadata TEXT NOT NULL,"
    " PRIMARY KEY (subject, version)) WITHOUT ROWID",
    "CREATE TABLE config (subject TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "INSERT INTO contents VALUES (1, 'json', '{}'), (7, 'json', '[]'), (9, 'json', '1')",
    "DELETE FROM contents WHERE id = 9",
    "INSERT INTO subjects VALUES ('a', 3), ('b', 1)",
    "INSERT INTO versions VALUES ('a', 1, 1, 1700000000.25, 1, '{}'), ('a', 3, 7, 1700000001, 0, '{\"x\": 1}'),"
    " ('b', 1, 1, 1700000002.5, 0, '{}')",
    "INSERT INTO config VALUES ('', '{\"mode\": \"FULL\"}'), ('a', '{\"mode\": \"NONE\"}')",
    "PRAGMA application_id=0x646D7367",
    "PRAGMA user_version=1",
)
STATE_1 = (
    "CREATE TABLE state (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE rows (\n    source TEXT NOT NULL, key TEXT NOT NULL, generation INTEGER NOT NULL,"
    " PRIMARY KEY (source, key)\n) WITHOUT ROWID",
    "INSERT INTO state VALUES ('cdc/crm/contact', x'01ff'), ('pause of crm/deal', x'31')",
    "INSERT INTO rows (source, key, generation) VALUES ('cdc/crm/contact', 'k1', 1), ('cdc/crm/contact', 'k2', 2),"
    " ('cdc/crm/deal', 'k1', 1)",
    "PRAGMA user_version=1",
)
STATE_2 = (
    *STATE_1[:-1],
    "ALTER TABLE rows ADD COLUMN row BLOB",
    "UPDATE rows SET row = 'state'",
    "UPDATE rows SET row = x'737461' WHERE key = 'k2'",
    "UPDATE rows SET row = x'' WHERE source = 'cdc/crm/deal'",
    "INSERT INTO state VALUES ('batch of cdc/crm/contact', '4'), ('undo of cdc/crm/contact', x'81a26b31c0')",
    "PRAGMA user_version=2",
)


def build(path: Path, statements: tuple[str, ...]) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def format_of(path: Path) -> tuple[int, int]:
    connection = sqlite3.connect(path)
    found = tuple(
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    connection.close()
    return found[0], found[1]


async def test_a_registry_of_format_1(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    build(path, REGISTRY_1)
    for _ in range(2):  # migrated, then opened again
        store = registry(path)
        await store.open()
        rows = [await store.get("a", n, deleted=True) for n in await store.numbers("a", deleted=True)]
        assert [
            (r.version, r.schema_id, r.text, r.deleted, r.created_at.timestamp(), r.notes) for r in rows if r
        ] == [
            (1, 1, "{}", True, 1700000000.25, {}),
            (3, 7, "[]", False, 1700000001.0, {"x": 1}),
        ]
        assert await store.subjects() == ["a", "b"]
        found = await store.by_id(7)
        assert found is not None
        assert found.text == "[]"
        assert await store.get_settings(None) == {"mode": "FULL"}
        assert await store.get_settings("a") == {"mode": "NONE"}
        await store.close()
    assert format_of(path) == (0x646D7367, 3)
    store = registry(path)
    await store.open()
    added = await add(store, "a", "new")
    assert (added.version, added.schema_id) == (4, 10), "neither a version nor an id is used twice"
    assert (await add(store, "c", "[]")).schema_id == 7
    await store.close()


@pytest.mark.parametrize("statements", [STATE_1, STATE_2], ids=["format 1", "format 2"])
async def test_a_state_file_of_an_earlier_format(statements: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    build(path, statements)
    for _ in range(2):
        store = SqliteCDCStore(path)
        assert await store.load("cdc/crm/contact") == b"\x01\xff"
        assert await store.paused("crm") == {"deal"}
        assert await store.stale_keys("cdc/crm/contact", 2, 10) == ["k1"]
        assert (await store.rows("cdc/crm/contact", ["k2"])) == (
            {"k2": b"sta"} if statements is STATE_2 else {}
        )
        assert await store.stale_keys("cdc/crm/deal", 2, 10) == ([] if statements is STATE_2 else ["k1"])
        await store.close()
    assert format_of(path) == (0x646D6373, 3)
    if statements is STATE_2:
        await store.rollback_uncommitted("cdc/crm/contact", 3)  # batch 4 was staged only
        assert await store.rows("cdc/crm/contact", ["k1", "k2"]) == {"k2": b"sta"}
        await store.close()


BUS_2 = (
    "DROP TABLE processes",
    "DROP TABLE changes",
    "DROP TABLE members",
    "CREATE TABLE members (\n    topic INTEGER NOT NULL, grp TEXT NOT NULL, token TEXT NOT NULL,\n"
    "    joined INTEGER NOT NULL, name TEXT NOT NULL,\n"
    "    boot TEXT NOT NULL, pid INTEGER NOT NULL, started TEXT NOT NULL, seen REAL NOT NULL,\n"
    "    PRIMARY KEY (topic, grp, token)\n) WITHOUT ROWID",
    "INSERT INTO topics (name, partitions) VALUES ('t', 1)",
    "INSERT INTO members SELECT id, 'g', 'dead', 1, 'dead', 'b', 1, '', 0 FROM topics",
    "INSERT INTO owners SELECT id, 'g', 0, 'dead' FROM topics",
    "INSERT INTO offsets SELECT id, 'g', 0, 0 FROM topics",
    "PRAGMA user_version=2",
)
"""The tables of format 2: a member held its process, and there were no versions of groups."""
BUS_1 = (
    *BUS_2[:-1],
    "DROP TABLE totals",
    "CREATE TABLE old (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "INSERT INTO old SELECT key, value FROM state",
    "DROP TABLE state",
    "CREATE TABLE state (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "INSERT INTO state SELECT * FROM old",
    "DROP TABLE old",
    "PRAGMA user_version=1",
)
"""The tables of format 1: the state had no checksum."""


@pytest.mark.parametrize("statements", [BUS_1, BUS_2], ids=["format 1", "format 2"])
async def test_a_bus_of_an_earlier_format(statements: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    await fill_bus(path)
    build(path, statements)
    for _ in range(2):
        backend = bus(path)
        await backend.open()
        assert await backend.load_state("position/a") == b"seventeen"
        assert await backend.load_state("none") is None
        await backend.append("t", [], state={"position/a": b"eighteen"})
        assert await backend.load_state("position/a") == b"eighteen"
        await backend.append("t", [], state={"position/a": b"seventeen"})
        assert [(g.group, g.committed, g.member) for g in await backend.groups()] == [("g", 0, None)]
        await backend.seek_group("t", "g", StartAt.EARLIEST)  # which a member would forbid
        await backend.close()
    assert format_of(path) == (0x646D6573, 3)


async def test_many_may_create_a_file_at_once(tmp_path: Path) -> None:
    """Each sees the file empty or whole: a look between the tables and the mark took it for that of another program."""
    for round_ in range(10):
        stores = [registry(tmp_path / f"{round_}.db") for _ in range(8)]
        opened = await asyncio.gather(*(store.open() for store in stores), return_exceptions=True)
        for store in stores:
            await store.close()
        assert opened == [None] * 8


async def test_two_processes_may_migrate_at_once(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    build(path, STATE_2)
    stores = [SqliteCDCStore(path) for _ in range(4)]
    assert await asyncio.gather(*(store.load("cdc/crm/contact") for store in stores)) == [b"\x01\xff"] * 4
    for store in stores:
        await store.close()


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    build(path, (*STATE_2, "CREATE TABLE totals (a)"))
    before = path.read_bytes()
    store = SqliteCDCStore(path)
    with pytest.raises(DimeshError):
        await store.load("cdc/crm/contact")
    await store.close()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM rows").fetchone() == (3,)
    assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    connection.close()
    assert len(path.read_bytes()) == len(before)
