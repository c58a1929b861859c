"""What is done to the tables. Every function runs in the writer's thread, inside its transaction, unless its name
begins with ``read_``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from zlib import crc32

from dimesh.backends.sqlite.database import OFFSET_BITS, OFFSET_MASK
from dimesh.errors import ConfigurationError, TopicNotFoundError
from dimesh.events.names import show
from dimesh.spi.bus import Position, Record, Start, StartAt, TopicConfig

Row = tuple[int, str, str, str, str, bytes, bytes, int]
"""slot, key, type, pillar, priority, header, payload, crc"""

INSERT = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
RETENTION_CHUNK = 2_000


class Topic(NamedTuple):
    """A row of topics."""

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
        """Rowid of offset 0."""
        return self.id << OFFSET_BITS


def row_of(record: Record) -> Row:
    """What is stored of a record. The slot is a hash of the key that outlives a change of the partitions."""
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
    """The topic with its end as the records have it: an append writes no row but the records' own."""
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
    """All topics, by name."""
    rows = connection.execute("SELECT * FROM topics ORDER BY name").fetchall()
    return [_with_end(connection, row) for row in rows]


def read_topic(connection: sqlite3.Connection, name: str) -> Topic:
    """A topic by name.

    Raises:
        TopicNotFoundError: none has it.
    """
    # Not every string can be asked for (a lone surrogate cannot be written); all names are ASCII.
    row = connection.execute(
        "SELECT * FROM topics WHERE name = ?", (name if name.isascii() else "",)
    ).fetchone()
    if row is None:
        raise TopicNotFoundError(f"no topic is named {show(name)}; 'dimesh topics' lists them")
    return _with_end(connection, row)


def ensure_topic(connection: sqlite3.Connection, name: str, partitions: int) -> Topic:
    """A topic by name, made if need be."""
    row = connection.execute("SELECT * FROM topics WHERE name = ?", (name,)).fetchone()
    if row is None:
        connection.execute("INSERT INTO topics (name, partitions) VALUES (?, ?)", (name, partitions))
        return read_topic(connection, name)
    return _with_end(connection, row)


def configure_topic(connection: sqlite3.Connection, name: str, config: TopicConfig, default: int) -> Topic:
    """Make a topic or change its settings."""
    topic = ensure_topic(connection, name, config.partitions or default)
    if config.partitions is not None and config.partitions < topic.partitions:
        raise ConfigurationError(
            f"topic {name!r} has {topic.partitions} partitions; their number can only grow"
        )
    if config.partitions is not None and config.partitions > topic.partitions:
        # What a new partition holds belonged to an old one, so no group may begin it beyond the slowest old one.
        for (group,) in connection.execute(
            "SELECT DISTINCT grp FROM offsets WHERE topic = ?", (topic.id,)
        ).fetchall():
            lowest = connection.execute(
                "SELECT min(offset) FROM offsets WHERE topic = ? AND grp = ?", (topic.id, group)
            ).fetchone()[0]
            connection.executemany(
                "INSERT OR REPLACE INTO offsets VALUES (?, ?, ?, ?)",
                [(topic.id, group, part, lowest) for part in range(config.partitions)],
            )
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


def append(connection: sqlite3.Connection, topic: Topic, rows: Sequence[Row], now: float) -> list[Position]:
    """Records at the end of a topic. Writes nothing else: each further page would be one more to flush."""
    time = max(now, topic.last_time)
    offset = topic.next_offset
    first = topic.base + offset
    connection.executemany(INSERT, [(rowid, time, *row) for rowid, row in enumerate(rows, first)])
    partitions = topic.partitions
    new = tuple.__new__  # a named tuple's own constructor costs twice as much
    return [new(Position, (row[0] % partitions, at)) for at, row in enumerate(rows, offset)]


def add_size(connection: sqlite3.Connection, sizes: Mapping[str, int]) -> None:
    """Count bytes that were appended. Done now and then, so a crash may leave a topic's size a little low."""
    connection.executemany(
        "UPDATE topics SET size = size + ? WHERE name = ?", [(size, name) for name, size in sizes.items()]
    )


def hold_back(connection: sqlite3.Connection, topic: Topic, row: Row, due: float) -> None:
    """A record that is to enter the topic later."""
    connection.execute(
        "INSERT INTO delayed (due, topic, slot, key, type, pillar, priority, header, payload, crc)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (due, topic.id, *row),
    )


def release_due(connection: sqlite3.Connection, now: float) -> set[str]:
    """Move what is due into its topics, in order of due time; returns their names."""
    found = connection.execute(
        "SELECT id, topic, slot, key, type, pillar, priority, header, payload, crc FROM delayed"
        " WHERE due <= ? ORDER BY due, id LIMIT 1000",
        (now,),
    ).fetchall()
    by_topic: dict[int, list[Row]] = {}
    for row in found:
        by_topic.setdefault(row[1], []).append(row[2:])
    names = set()
    for topic_id, rows in by_topic.items():
        raw = connection.execute("SELECT * FROM topics WHERE id = ?", (topic_id,)).fetchone()
        if raw is not None:
            topic = _with_end(connection, raw)
            append(connection, topic, rows, now)
            add_size(connection, {topic.name: sum(len(row[5]) + len(row[6]) for row in rows)})
            names.add(topic.name)
    connection.executemany("DELETE FROM delayed WHERE id = ?", [(row[0],) for row in found])
    return names


def save_state(connection: sqlite3.Connection, state: Mapping[str, bytes]) -> None:
    """Values of the caller's own."""
    connection.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", state.items())


def delete_topic(connection: sqlite3.Connection, name: str) -> None:
    """A topic with all that belongs to it."""
    topic = read_topic(connection, name)
    connection.execute("DELETE FROM records WHERE id BETWEEN ? AND ?", (topic.base, topic.base | OFFSET_MASK))
    for table in ("delayed", "offsets", "members", "owners", "attempts"):
        connection.execute(f"DELETE FROM {table} WHERE topic = ?", (topic.id,))
    connection.execute("DELETE FROM topics WHERE id = ?", (topic.id,))


def retain(
    connection: sqlite3.Connection,
    now: float,
    seconds: float | None,
    size: int | None,
    records: int | None,
) -> bool:
    """Remove a chunk of what retention no longer covers; True if there is more."""
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
        gone = 0
        for _, time, length in held:
            if not (
                (max_age is not None and time < now - max_age)
                or (max_size is not None and left > max_size)
                or (max_records is not None and count - gone > max_records)
            ):
                break
            gone += 1
            left = max(left - length, 0)
        if gone:
            first = topic.first_offset + gone
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
            more = more or gone == RETENTION_CHUNK
    return more


def read_start(connection: sqlite3.Connection, topic: Topic, start: Start) -> dict[int, int]:
    """The offset of each partition that a start means."""
    if start is StartAt.LATEST:
        return dict.fromkeys(range(topic.partitions), topic.next_offset)
    if start is StartAt.EARLIEST:
        return dict.fromkeys(range(topic.partitions), topic.first_offset)
    if isinstance(start, datetime):
        return dict.fromkeys(range(topic.partitions), _offset_at(connection, topic, start.timestamp()))
    assert isinstance(start, Mapping)
    offsets = dict.fromkeys(range(topic.partitions), topic.first_offset)
    # Never beyond the end: what comes next would be passed over in silence.
    offsets.update(
        (part, min(max(offset, 0), topic.next_offset)) for part, offset in start.items() if part in offsets
    )
    return offsets


def _offset_at(connection: sqlite3.Connection, topic: Topic, instant: float) -> int:
    """The first offset taken at or after ``instant``: record times do not go back, so a bisection finds it."""
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
    """Records at or after each (partition, offset). Counted where that is cheap, estimated from the distance else."""
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
