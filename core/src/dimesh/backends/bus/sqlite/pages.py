"""Reading records: pages of rows, converted to deliveries in a reader's thread."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar
from zlib import crc32

from dimesh.backends.bus.sqlite.database import OFFSET_MASK, reader_connection
from dimesh.backends.bus.sqlite.tables import Topic
from dimesh.errors import DimeshError, StorageError
from dimesh.spi.bus import Attempts, Delivery, Filter, Record
from dimesh.storage.sqlitefile import UNWRITABLE, explain

T = TypeVar("T")
READERS = 2


class Page(NamedTuple):
    """The result of a scan."""

    deliveries: list[Delivery]
    end: int
    """The offset up to which records were examined."""


class Readers:
    """A few threads, each with a read-only connection."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(READERS, "dimesh-sqlite-reader")

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return the result of ``work``, which is called in a thread.

        Raises:
            StorageError: the database cannot be read.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._call, work)

    def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            try:
                connection = self._idle.get_nowait()
            except queue.Empty:
                connection = reader_connection(self._path)
            try:
                return work(connection)
            finally:
                self._idle.put(connection)
        except DimeshError:  # some are a ValueError, too
            raise
        except (sqlite3.Error, *UNWRITABLE) as error:
            raise explain(error, self._path) from error

    def close(self) -> None:
        """End the threads and close the connections. Called under the lock."""
        self._pool.shutdown(wait=True)
        while True:
            try:
                self._idle.get_nowait().close()
            except queue.Empty:
                return


COLUMNS = "id, time, slot, key, type, pillar, priority, header, payload, crc"


def scan(
    connection: sqlite3.Connection,
    topic: Topic,
    begin: Mapping[int, int],
    wanted: Filter,
    limit: int,
    rows: int,
) -> Page:
    """Return the records of the partitions in ``begin``, each from its offset on.

    Examines no more than ``rows`` records and returns no more than ``limit``.

    Raises:
        StorageError: a record is damaged.
    """
    first = min(begin.values())
    partitions = topic.partitions
    everything = wanted.everything and len(begin) == partitions and len(set(begin.values())) == 1
    deliveries: list[Delivery] = []
    add = deliveries.append
    wants = wanted.wants
    base = topic.base
    end = first
    looked = 0
    cursor = connection.execute(
        f"SELECT {COLUMNS} FROM records WHERE id >= ? AND id <= ? ORDER BY id LIMIT ?",
        (base + first, base | OFFSET_MASK, rows),
    )
    for rowid, time, slot, key, kind, pillar, priority, header, payload, crc in cursor:
        if len(deliveries) >= limit:
            break
        looked += 1
        offset = rowid - base
        end = offset + 1
        part = slot % partitions
        if not everything:
            at = begin.get(part)
            if at is None or offset < at or not wants(kind, pillar, priority):
                continue
        if crc32(payload, crc32(header)) != crc:
            raise StorageError(
                f"record {offset} of topic {topic.name!r} is damaged (its checksum differs): restore "
                "the database from a backup, or move the group past it with 'dimesh replay'"
            )
        # Record.stored, spelled out: a replay makes hundreds of thousands of them.
        add(Delivery(Record(key, kind, pillar, priority, payload, None, None, header), part, offset, time))
    else:
        if looked < rows:
            # The end of the table is reached, which is no lower than the end of the topic when that was read.
            end = max(end, topic.next_offset)
    cursor.close()
    return Page(deliveries, end)


def read_attempts(
    connection: sqlite3.Connection, topic: int, group: str, begin: int, end: int
) -> dict[int, Attempts]:
    """Return the failed attempts of a group on the offsets from ``begin`` to below ``end``."""
    return {
        offset: Attempts(count, first)
        for offset, count, first in connection.execute(
            "SELECT offset, count, first FROM attempts WHERE topic = ? AND grp = ? AND offset >= ? AND offset < ?",
            (topic, group, begin, end),
        )
    }
