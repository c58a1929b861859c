"""Files that are damaged, foreign, newer, read-only or on a full disk: a clear error, and no stored event is lost."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import pytest

from dimesh import Event, EventBus, EventBusFactory, StartAt
from dimesh.backends.bus.sqlite import writer
from dimesh.errors import DimeshError, StorageError

SENT = 400


def make(path: Path, **options: object) -> EventBus:
    return EventBusFactory.create("sqlite", path=str(path), **options)


async def fill(path: Path, count: int = SENT) -> None:
    async with make(path) as bus:
        for first in range(0, count, 20):
            await bus.publish_many(
                "t", [Event("x.y", None, f"{n}:" + "payload " * 20) for n in range(first, first + 20)]
            )


async def everything(path: Path) -> list[int]:
    """Return the numbers of all events that can be read."""
    async with make(path) as bus:
        return [
            int(d.record.event.payload.split(":")[0])
            for d in await bus.door.read("t", StartAt.EARLIEST, 100_000)
        ]


def check_numbers(found: Sequence[int], expected: Sequence[int]) -> None:
    """Assert that two lists are equal; the message has the first differences only."""
    pairs = enumerate(zip_longest(found, expected))
    at = next((n for n, (one, other) in pairs if one != other), None)
    assert at is None, f"at {at}: {found[at : at + 5]} instead of {list(expected[at : at + 5])}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "mesh.db"
    asyncio.run(fill(file))
    return file


# -- files of other programs and formats -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"SQLite format 3\0" + b"\xff" * 5_000, "damaged or not a database"),
        (b"this is a letter to a friend, and no database at all" * 100, "damaged or not a database"),
    ],
)
async def test_a_file_that_is_not_a_database(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "mesh.db"
    file.write_bytes(content)
    with pytest.raises(StorageError, match=said):
        await make(file).open()
    assert file.read_bytes() == content, "the file was modified"


async def test_a_database_of_another_program(tmp_path: Path) -> None:
    file = tmp_path / "mesh.db"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE customers (name TEXT)")
    connection.close()
    before = file.read_bytes()
    with pytest.raises(StorageError, match="another program"):
        await make(file).open()
    assert file.read_bytes() == before


async def test_a_newer_format(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StorageError, match="format 99, this dimesh reads up to 3: upgrade dimesh"):
        await make(path).open()


async def test_missing_tables(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE records")
    connection.close()
    with pytest.raises(StorageError, match=r"is damaged \(the table records is missing"):
        await make(path).open()


# -- damage ------------------------------------------------------------------------------------------


async def test_a_flipped_bit_in_a_record_is_never_delivered(path: Path, tmp_path: Path) -> None:
    """Every record carries a checksum: a flipped bit of a payload is an error that names the record."""
    whole = path.read_bytes()
    rng = random.Random(5)
    found = 0
    places = [at for at in range(len(whole)) if whole[at : at + 8] == b"payload "]
    for number in range(25):
        damaged = bytearray(whole)
        at = rng.choice(places) + rng.randrange(8)
        damaged[at] ^= 1 << rng.randrange(8)
        copy = tmp_path / f"copy{number}.db"
        copy.write_bytes(damaged)
        with pytest.raises(StorageError, match=r"record \d+ of topic 't' is damaged"):
            await everything(copy)
        found += 1
    assert found == 25


@pytest.mark.slow
async def test_bits_flipped_anywhere(path: Path, tmp_path: Path) -> None:
    """Wherever the damage is: a read returns what was written, or raises an error that reports the damage."""
    whole = path.read_bytes()
    sent = {n: f"{n}:" + "payload " * 20 for n in range(SENT)}
    rng = random.Random(6)
    errors = 0
    for number in range(60):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 1, 8))):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        copy = tmp_path / f"copy{number}.db"
        copy.write_bytes(damaged)
        bus = make(copy)
        try:
            await bus.open()
            for delivery in await bus.door.read("t", StartAt.EARLIEST, 100_000):
                payload = delivery.record.event.payload
                assert sent[int(payload.split(":")[0])] == payload
        except DimeshError:
            errors += 1
        finally:
            await bus.close()
    assert errors > 5


@pytest.mark.slow
async def test_a_torn_tail(path: Path, tmp_path: Path) -> None:
    """The write-ahead log is truncated anywhere: the events before the cut are kept, and the mesh continues."""
    bus = make(path)
    await bus.open()
    for n in range(SENT, SENT + 60):
        await bus.publish("t", Event("x.y", None, f"{n}:later"))
    wal = Path(f"{path}-wal").read_bytes()
    main = path.read_bytes()
    await bus.close()
    rng = random.Random(7)
    for number in range(25):
        copy = tmp_path / f"copy{number}.db"
        copy.write_bytes(main)
        Path(f"{copy}-wal").write_bytes(
            wal[: rng.randrange(len(wal))] + rng.randbytes(rng.choice((0, 0, 3_000)))
        )
        found = await everything(copy)
        check_numbers(found, range(len(found)))
        assert len(found) >= SENT
        async with make(copy) as again:
            receipt = await again.publish("t", Event("x.y", None, f"{len(found)}:new"))
        check_numbers(await everything(copy), range(len(found) + 1))
        assert receipt.position is not None


# -- no space, no permission -------------------------------------------------------------------------


def test_a_read_only_file(path: Path) -> None:
    """The check runs as a user without write permission, since root always has it."""
    code = (
        "import asyncio, os, sys\n"
        "from dimesh import EventBusFactory\n"
        f"bus = EventBusFactory.create('sqlite', path={str(path)!r})\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "asyncio.run(bus.open())\n"
    )
    for parent in path.parents:
        if parent.stat().st_uid == os.getuid() and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    path.chmod(0o444)
    for extra in ("-lock", "-wal", "-shm"):
        if Path(f"{path}{extra}").exists():
            Path(f"{path}{extra}").chmod(0o444)
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "StorageError" in done.stderr, done.stderr
    assert path.name in done.stderr.splitlines()[-1]
    assert path.read_bytes() == before


async def test_a_full_database_takes_nothing_and_goes_on_when_there_is_room(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own limit stands in for the disk's: it causes the same error in the same place."""
    made = writer.writer_connection
    connections = []

    def limited(file: Path, synchronous: str) -> sqlite3.Connection:
        connection = made(file, synchronous)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages + 30}")
        connections.append(connection)
        return connection

    monkeypatch.setattr(writer, "writer_connection", limited)
    bus = make(path)
    await bus.open()
    taken = []
    refused = []
    for n in range(SENT, SENT + 80):
        try:
            await bus.publish("t", Event("x.y", None, f"{n}:" + "x" * 5_000))
            taken.append(n)
        except StorageError as error:
            refused.append(str(error))
    assert taken
    assert refused
    assert all("is full" in text and "free space and try again" in text for text in refused)
    connections[0].execute("PRAGMA max_page_count=1000000")
    await bus.publish("t", Event("x.y", None, "9999:now"))
    await bus.close()
    check_numbers(await everything(path), [*range(SENT), *taken, 9999])


CHILD = """
import asyncio, resource, signal, sys
from dimesh import Event, EventBusFactory
from dimesh.errors import StorageError

async def main(path, limit):
    bus = EventBusFactory.create("sqlite", path=path)
    await bus.open()
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    for n in range(1000, 1400):
        try:
            await bus.publish("t", Event("x.y", None, f"{n}:" + "x" * 5000))
        except StorageError as error:
            print("refused", error)
            break
        print("taken", n, flush=True)
    await bus.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def taken_by_child(path: Path, limit: int) -> tuple[list[int], list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(limit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    taken = [int(line.split()[1]) for line in lines if line.startswith("taken")]
    return taken, [line for line in lines if line.startswith("refused")]


def test_a_file_that_may_not_grow(path: Path) -> None:
    """The kernel refuses the write (a quota): an error, and the acknowledged events are kept."""
    taken, refused = taken_by_child(path, 600_000)
    assert taken
    assert len(refused) == 1
    assert str(path) in refused[0]
    check_numbers(asyncio.run(everything(path)), [*range(SENT), *taken])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("a small file system cannot be mounted here; the two tests above stand in for it")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_disk_that_is_full(small_disk: Path) -> None:
    """A real full disk: ENOSPC, then space again."""
    file = small_disk / "mesh.db"
    asyncio.run(fill(file, 40))
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 600_000)
    taken, refused = taken_by_child(file, 0)
    assert taken
    assert "is full" in refused[0] or "full" in refused[0]
    ballast.unlink()
    check_numbers(asyncio.run(everything(file)), [*range(40), *taken])
