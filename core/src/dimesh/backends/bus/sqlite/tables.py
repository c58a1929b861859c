"""The operations on the tables.

Every function runs in the writer's thread, inside its transaction, unless its name begins with ``read_`` or ``load_``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from dimesh.backends.bus.sqlite import processes
from dimesh.backends.bus.sqlite.database import OFFSET_BITS, OFFSET_MASK, STATE
from dimesh.errors import ConfigurationError, StorageError, TopicNotFoundError
from dimesh.events.names import show
from dimesh.spi.bus import Position, Record, Start, StartAt, TopicConfig
from dimesh.storage.checksums import row_crc
from dimesh.storage.sqlitefile import snapshot

Row = tuple[int, str, str, str, str, bytes, bytes, int]
"""The columns slot, key, type, pillar, priority, header, payload, crc of a record."""

Due = tuple[float, int]
"""The place of a record among those that are held back: its due time and its number."""

INSERT = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
RETENTION_CHUNK = 2_000


class Topic(NamedTuple):
    """A row of the table ``topics``."""

    id: int
    name: str
    partitions: int
    first_offset: int
    next_offset: int
    last_time: float
    size: int
    retention_seconds: float | None
    retention_bytes: int | None
    retention_records: int | None

    @property
    def base(self) -> int:
        """The rowid of offset 0."""
        return self.id << OFFSET_BITS


def row_of(record: Record) -> Row:
    """Return the columns of a record. The slot is a hash of the key; see :func:`_grow`."""
    header = record.header
    payload = record.payload
    key = record.key
    return (
        crc32(key.encode()) & 0xFFFF,
        key,
        record.event_type,
        record.pillar,
        record.priority,
        header,
        payload,
        crc32(payload, crc32(header)),
    )


def _with_end(connection: sqlite3.Connection, row: tuple[Any, ...]) -> Topic:
    """Return the topic with its end taken from the records, since an append does not write the row of the topic."""
    topic = Topic(*row)
    last = connection.execute(
        "SELECT id, time FROM records WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT 1",
        (topic.base, topic.base | OFFSET_MASK),
    ).fetchone()
    if last is None:
        return topic
    return topic._replace(
        next_offset=max(topic.next_offset, last[0] - topic.base + 1), last_time=max(topic.last_time, last[1])
    )


def read_topics(connection: sqlite3.Connection) -> list[Topic]:
    """Return all topics, by name."""
    rows = connection.execute("SELECT * FROM topics ORDER BY name").fetchall()
    return [_with_end(connection, row) for row in rows]


def read_topic(connection: sqlite3.Connection, name: str) -> Topic:
    """Return the topic of this name.

    Raises:
        TopicNotFoundError: there is no such topic.
    """
    # Not every string can be a parameter (a lone surrogate cannot be encoded); all names are ASCII.
    row = connection.execute(
        "SELECT * FROM topics WHERE name = ?", (name if name.isascii() else "",)
    ).fetchone()
    if row is None:
        raise TopicNotFoundError(f"no topic is named {show(name)}; 'dimesh topics' lists them")
    return _with_end(connection, row)


def ensure_topic(connection: sqlite3.Connection, name: str, partitions: int) -> Topic:
    """Return the topic of this name; create it if it does not exist."""
    row = connection.execute("SELECT * FROM topics WHERE name = ?", (name,)).fetchone()
    if row is None:
        connection.execute("INSERT INTO topics (name, partitions) VALUES (?, ?)", (name, partitions))
        return read_topic(connection, name)
    return _with_end(connection, row)


def configure_topic(connection: sqlite3.Connection, name: str, config: TopicConfig, default: int) -> Topic:
    """Create a topic or change its settings."""
    topic = ensure_topic(connection, name, config.partitions or default)
    if config.partitions is not None and config.partitions < topic.partitions:
        raise ConfigurationError(
            f"topic {name!r} has {topic.partitions} partitions; their number can only grow"
        )
    if config.partitions is not None and config.partitions > topic.partitions:
        _grow(connection, topic, config.partitions)
        _mark_changed(connection, topic.id)
    connection.execute(
        "UPDATE topics SET partitions = coalesce(?, partitions),"
        " retention_seconds = coalesce(?, retention_seconds),"
        " retention_bytes = coalesce(?, retention_bytes),"
        " retention_records = coalesce(?, retention_records) WHERE id = ?",
        (
            config.partitions,
            config.retention_seconds,
            config.retention_bytes,
            config.retention_records,
            topic.id,
        ),
    )
    return read_topic(connection, name)


def _grow(connection: sqlite3.Connection, topic: Topic, partitions: int) -> None:
    """Add partitions. Records stay where they are: otherwise a record that nobody has handled could come to a partition
    whose position has passed it.
    """
    first, last = topic.base, topic.base | OFFSET_MASK
    connection.execute(
        "UPDATE records SET slot = slot % ? WHERE id >= ? AND id <= ?", (topic.partitions, first, last)
    )
    groups = connection.execute("SELECT DISTINCT grp FROM offsets WHERE topic = ?", (topic.id,)).fetchall()
    connection.executemany(
        "INSERT OR REPLACE INTO offsets VALUES (?, ?, ?, ?)",
        [
            (topic.id, group, part, topic.next_offset)
            for (group,) in groups
            for part in range(topic.partitions, partitions)
        ],
    )


def append(connection: sqlite3.Connection, topic: Topic, rows: Sequence[Row], now: float) -> list[Position]:
    """Append records to a topic. Nothing else is written: each further page would be one more to flush."""
    time = max(now, topic.last_time)
    offset = topic.next_offset
    first = topic.base + offset
    if len(rows) == 1:
        connection.execute(INSERT, (first, time, *rows[0]))
    else:
        connection.executemany(INSERT, [(rowid, time, *row) for rowid, row in enumerate(rows, first)])
    partitions = topic.partitions
    new = tuple.__new__  # a named tuple's own constructor costs twice as much
    return [new(Position, (row[0] % partitions, at)) for at, row in enumerate(rows, offset)]


def add_size(connection: sqlite3.Connection, sizes: Mapping[str, int]) -> None:
    """Add appended bytes to the sizes of topics. Done at intervals, so a crash may leave a size slightly too low."""
    connection.executemany(
        "UPDATE topics SET size = size + ? WHERE name = ?", [(size, name) for name, size in sizes.items()]
    )


def hold_back(connection: sqlite3.Connection, topic: Topic, row: Row, due: float) -> None:
    """Store a record that enters the topic later."""
    connection.execute(
        "INSERT INTO delayed (due, topic, slot, key, type, pillar, priority, header, payload, crc)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (due, topic.id, *row),
    )


def release_due(connection: sqlite3.Connection, now: float) -> dict[int, int]:
    """Move due records into their topics, in order of due time; return the new ends of the topics by their ids."""
    found = connection.execute(
        "SELECT id, topic, slot, key, type, pillar, priority, header, payload, crc FROM delayed"
        " WHERE due <= ? ORDER BY due, id LIMIT 1000",
        (now,),
    ).fetchall()
    by_topic: dict[int, list[Row]] = {}
    for row in found:
        by_topic.setdefault(row[1], []).append(row[2:])
    ends: dict[int, int] = {}
    for topic_id, rows in by_topic.items():
        raw = connection.execute("SELECT * FROM topics WHERE id = ?", (topic_id,)).fetchone()
        if raw is not None:
            topic = _with_end(connection, raw)
            append(connection, topic, rows, now)
            add_size(connection, {topic.name: sum(len(row[5]) + len(row[6]) for row in rows)})
            ends[topic_id] = topic.next_offset + len(rows)
    connection.executemany("DELETE FROM delayed WHERE id = ?", [(row[0],) for row in found])
    return ends


def read_delayed(
    connection: sqlite3.Connection, after: Due, limit: int = 500
) -> list[tuple[Due, str, Record]]:
    """Return the records that are held back, from the first after a place on, with their places and topics.

    Raises:
        StorageError: a record is damaged.
    """
    found: list[tuple[Due, str, Record]] = []
    for due, number, topic, key, kind, pillar, priority, header, payload, crc in connection.execute(
        "SELECT d.due, d.id, t.name, d.key, d.type, d.pillar, d.priority, d.header, d.payload, d.crc"
        " FROM delayed d JOIN topics t ON t.id = d.topic WHERE (d.due, d.id) > (?, ?) ORDER BY d.due, d.id LIMIT ?",
        (*after, limit),
    ):
        if crc32(payload, crc32(header)) != crc:
            raise StorageError(
                f"a delayed record of topic {topic!r} is damaged (its checksum differs): restore the database from a backup"
            )
        record = Record.stored(header, payload, key, kind, pillar, priority, due)
        found.append(((due, number), topic, record))
    return found


def save_state(connection: sqlite3.Connection, state: Mapping[str, bytes]) -> None:
    """Save values of the caller's own."""
    connection.executemany(
        "INSERT INTO state VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value, crc = excluded.crc",
        [(key, value, row_crc(key, value)) for key, value in state.items()],
    )


def load_state(connection: sqlite3.Connection, key: str, path: Path) -> bytes | None:
    """Return a value of the caller's own, or None.

    Raises:
        StorageError: the value is damaged, or may be missing because of damage.
    """
    with snapshot(connection):
        row = connection.execute("SELECT crc, key, value FROM state WHERE key = ?", (key,)).fetchone()
        if row is None:
            STATE.verify(connection, path)
            return None
    STATE.check(path, *row)
    return bytes(row[2])


def _mark_changed(connection: sqlite3.Connection, topic: int) -> None:
    processes.mark_changed(connection, "SELECT ? AS topic, '' AS grp", (topic,))


def read_end(connection: sqlite3.Connection, topic: int) -> int:
    """Return the offset after the last record of a topic; 0 if there is no record. Cheap, since it is asked for often."""
    base = topic << OFFSET_BITS
    last = connection.execute(
        "SELECT id FROM records WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT 1", (base, base | OFFSET_MASK)
    ).fetchone()
    return 0 if last is None else last[0] - base + 1


def read_exists(connection: sqlite3.Connection, topic: int) -> bool:
    """Return whether there is a topic with this id."""
    return connection.execute("SELECT 1 FROM topics WHERE id = ?", (topic,)).fetchone() is not None


def read_changes(connection: sqlite3.Connection, version: int) -> tuple[int, list[tuple[int, str]]]:
    """Return the current version, and the topics and groups that changed after ``version``."""
    found = connection.execute(
        "SELECT version, topic, grp FROM changes WHERE version > ? ORDER BY version", (version,)
    ).fetchall()
    return (found[-1][0] if found else version), [(topic, group) for _, topic, group in found]


def delete_topic(connection: sqlite3.Connection, name: str) -> int:
    """Delete a topic with everything that belongs to it; return its id."""
    topic = read_topic(connection, name)
    _mark_changed(connection, topic.id)
    connection.execute("DELETE FROM changes WHERE topic = ? AND grp <> ''", (topic.id,))
    connection.execute("DELETE FROM records WHERE id BETWEEN ? AND ?", (topic.base, topic.base | OFFSET_MASK))
    for table in ("delayed", "offsets", "members", "owners", "attempts"):
        connection.execute(f"DELETE FROM {table} WHERE topic = ?", (topic.id,))
    connection.execute("DELETE FROM topics WHERE id = ?", (topic.id,))
    return topic.id


def retain(
    connection: sqlite3.Connection,
    now: float,
    seconds: float | None,
    size: int | None,
    records: int | None,
) -> bool:
    """Remove a chunk of the records that retention no longer covers; return whether there are more."""
    more = False
    for topic in read_topics(connection):
        # A topic's own settings replace the defaults as a whole.
        own = (topic.retention_seconds, topic.retention_bytes, topic.retention_records)
        max_age, max_size, max_records = own if any(v is not None for v in own) else (seconds, size, records)
        if max_age is None and max_size is None and max_records is None:
            continue
        held = connection.execute(
            "SELECT id, time, length(header) + length(payload) FROM records WHERE id >= ? AND id < ?"
            " ORDER BY id LIMIT ?",
            (topic.base + topic.first_offset, topic.base + topic.next_offset, RETENTION_CHUNK),
        ).fetchall()
        count = topic.next_offset - topic.first_offset
        left = topic.size
        removed = 0
        for _, time, length in held:
            if not (
                (max_age is not None and time < now - max_age)
                or (max_size is not None and left > max_size)
                or (max_records is not None and count - removed > max_records)
            ):
                break
            removed += 1
            left = max(left - length, 0)
        if removed:
            first = topic.first_offset + removed
            connection.execute(
                "DELETE FROM records WHERE id >= ? AND id < ?", (topic.base, topic.base + first)
            )
            connection.execute(
                "UPDATE topics SET first_offset = ?, next_offset = ?, last_time = ?, size = ? WHERE id = ?",
                (
                    first,
                    topic.next_offset,
                    topic.last_time,
                    left if first < topic.next_offset else 0,
                    topic.id,
                ),
            )
            connection.execute("DELETE FROM attempts WHERE topic = ? AND offset < ?", (topic.id, first))
            more = more or removed == RETENTION_CHUNK
    return more


def read_start(connection: sqlite3.Connection, topic: Topic, start: Start) -> dict[int, int]:
    """Return the offset of each partition that ``start`` stands for."""
    if start is StartAt.LATEST:
        return dict.fromkeys(range(topic.partitions), topic.next_offset)
    if start is StartAt.EARLIEST:
        return dict.fromkeys(range(topic.partitions), topic.first_offset)
    if isinstance(start, datetime):
        return dict.fromkeys(range(topic.partitions), _offset_at(connection, topic, start.timestamp()))
    assert isinstance(start, Mapping)
    offsets = dict.fromkeys(range(topic.partitions), topic.first_offset)
    # Never beyond the end: the next records would be skipped silently.
    offsets.update(
        (part, min(max(offset, 0), topic.next_offset)) for part, offset in start.items() if part in offsets
    )
    return offsets


def _offset_at(connection: sqlite3.Connection, topic: Topic, instant: float) -> int:
    """Return the first offset at or after ``instant``, by bisection: record times never decrease."""
    low, high = topic.first_offset, topic.next_offset
    while low < high:
        middle = (low + high) // 2
        row = connection.execute("SELECT time FROM records WHERE id = ?", (topic.base + middle,)).fetchone()
        if row is None or row[0] < instant:
            low = middle + 1
        else:
            high = middle
    return low


def read_lag(
    connection: sqlite3.Connection, topic: Topic, positions: Iterable[tuple[int, int]]
) -> dict[int, int]:
    """Return the number of records at or after each (partition, offset): counted if that is cheap, otherwise estimated."""
    lags: dict[int, int] = {}
    for part, offset in positions:
        begin = max(offset, topic.first_offset)
        distance = max(topic.next_offset - begin, 0)
        if topic.partitions == 1 or distance == 0:
            lags[part] = distance
        elif distance > 20_000:
            lags[part] = distance // topic.partitions
        else:
            lags[part] = connection.execute(
                "SELECT count(*) FROM records WHERE id >= ? AND id < ? AND slot % ? = ?",
                (topic.base + begin, topic.base + topic.next_offset, topic.partitions, part),
            ).fetchone()[0]
    return lags
