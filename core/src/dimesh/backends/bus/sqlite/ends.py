"""The topics that were appended to last, as the writer's connection knows them without asking the database."""

from __future__ import annotations

import sqlite3
from typing import Final

from dimesh.backends.bus.sqlite.tables import Topic, ensure_topic

MAX_TOPICS: Final = 1_024


class Ends:
    """Topics with their ends. Valid as long as nothing but appends was written, by this connection or another.

    Two look-ups for each append are saved, which are a third of the work in the database for a single record.
    """

    def __init__(self) -> None:
        self._topics: dict[str, Topic] = {}
        self._changes = -1
        """The rows that the connection had changed after the last append."""
        self._version = -1
        """The version of the data that other connections had written."""

    def begin(self, connection: sqlite3.Connection) -> None:
        """Forget the topics if another connection has written. Call it in each write transaction, at its beginning."""
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version:
            self._version = version
            self._topics.clear()

    def forget(self) -> None:
        """Forget the topics: a transaction was rolled back."""
        self._topics.clear()

    def topic(self, connection: sqlite3.Connection, name: str, partitions: int) -> Topic:
        """Return the topic of this name; create it if it does not exist."""
        if connection.total_changes != self._changes:
            self._topics.clear()
        return self._topics.get(name) or ensure_topic(connection, name, partitions)

    def appended(self, connection: sqlite3.Connection, topic: Topic, count: int, now: float) -> None:
        """Record that so many records were appended to a topic that :meth:`topic` returned, and nothing else was written."""
        if len(self._topics) >= MAX_TOPICS:
            self._topics.clear()
        self._changes = connection.total_changes
        self._topics[topic.name] = topic._replace(
            next_offset=topic.next_offset + count, last_time=max(now, topic.last_time)
        )
