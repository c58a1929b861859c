"""A simulated power cut: any part of what was written since the last flush may be on the disk, or none of it.

The files are copied after each acknowledged publish (their contents are flushed then) and around checkpoints. Between two
such moments the disk may hold any mixture of the two: the log up to any byte of the new one, with the rest as it was; and
while a checkpoint runs, any subset of the database's pages.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dimesh import Event, EventBus, EventBusFactory, StartAt
from dimesh.backends.bus.sqlite import writer
from dimesh.spi.bus import TopicConfig

PAGE = 4_096


def make(path: Path) -> EventBus:
    return EventBusFactory.create("sqlite", path=str(path))


class Disk:
    """The contents of both files at one moment."""

    def __init__(self, path: Path) -> None:
        self.main = path.read_bytes()
        wal = Path(f"{path}-wal")
        self.wal = wal.read_bytes() if wal.exists() else b""


def mixed(old: bytes, new: bytes, cut: int) -> bytes:
    """Return the first ``cut`` bytes of the new contents, then the old ones."""
    return new[:cut] + old[cut:] if len(old) > cut else new[:cut]


def pages(old: bytes, new: bytes, rng: random.Random) -> bytes:
    """Return the file with each page from either the old or the new contents."""
    whole = bytearray(new)
    for at in range(0, len(new), PAGE):
        if rng.random() < 0.5:
            whole[at : at + PAGE] = old[at : at + PAGE].ljust(min(PAGE, len(new) - at), b"\0")
    return bytes(whole)


async def after_the_cut(folder: Path, main: bytes, wal: bytes) -> list[list[int]]:
    """Start a mesh on such a disk, and return the batches that it finds, in order."""
    folder.mkdir()
    path = folder / "mesh.db"
    path.write_bytes(main)
    Path(f"{path}-wal").write_bytes(wal)
    async with make(path) as bus:
        found = [d.record.event.payload for d in await bus.door.read("t", StartAt.EARLIEST, 100_000)]
        # The log also accepts new events.
        await bus.publish("t", Event("x.y", None, [-1, -1]))
    return found


async def check(
    folder: Path, main: bytes, wal: bytes, acknowledged: int, begun: int, sizes: list[int]
) -> None:
    found = await after_the_cut(folder, main, wal)
    expected = [[batch, n] for batch in range(acknowledged) for n in range(sizes[batch])]
    more = [[batch, n] for batch in range(begun) for n in range(sizes[batch])]
    assert found in (expected, more), f"{len(found)} events, {len(expected)} were acknowledged"


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.slow
async def test_what_was_acknowledged_survives(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All acknowledged batches exist; the batch in progress exists as a whole or not at all."""
    rng = random.Random(seed)
    path = tmp_path / "mesh.db"
    bus = make(path)
    await bus.open()
    await bus.door.create_topic("t", TopicConfig(partitions=1))
    sizes: list[int] = []
    cuts = 0

    async def cut(main: bytes, wal: bytes, acknowledged: int) -> None:
        nonlocal cuts
        cuts += 1
        await check(tmp_path / f"cut{cuts}", main, wal, acknowledged, len(sizes), sizes)

    old = Disk(path)
    for batch in range(40):
        checkpoint = batch % 9 == 5
        monkeypatch.setattr(writer, "CHECKPOINT_BYTES", 0 if checkpoint else 1 << 60)
        sizes.append(rng.randrange(1, 30))
        await bus.publish_many("t", [Event("x.y", None, [batch, n]) for n in range(sizes[-1])], key="k")
        # The checkpoint follows the response; the next submission follows the checkpoint.
        await bus.door._backend.writer.submit(lambda connection: None)  # type: ignore[attr-defined]
        new = Disk(path)
        # While the log was being written: any part of its new contents.
        changed = [at for at in range(0, len(new.wal), 64) if old.wal[at : at + 64] != new.wal[at : at + 64]]
        for _ in range(3):
            await cut(old.main, mixed(old.wal, new.wal, rng.randrange(changed[0], len(new.wal) + 1)), batch)
        if checkpoint:
            # While the flushed log was being copied into the database: any subset of its pages.
            assert old.main != new.main
            for _ in range(6):
                await cut(pages(old.main, new.main, rng), new.wal, batch + 1)
        await cut(new.main, new.wal, batch + 1)
        old = new
    await bus.close()
    assert cuts > 150
