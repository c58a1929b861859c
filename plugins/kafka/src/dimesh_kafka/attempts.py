"""Failed attempts by group and record, in a compacted topic, so that the next member of a group continues the count."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import msgspec

from dimesh.spi.bus import Attempts
from dimesh_kafka.tables import Tables

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[int, float]).decode


class AttemptsTable:
    """The counts of failed attempts.

    Args:
        topic: the topic that holds the counts.
        tables: reads the topic.
        put: writes a key with its value; the value None deletes the key.
    """

    def __init__(
        self, topic: str, tables: Tables, put: Callable[[str, bytes, bytes | None], Awaitable[None]]
    ) -> None:
        self._topic = topic
        self._tables = tables
        self._put = put

    async def of(self, group: str, topic: str, partitions: Iterable[int]) -> dict[int, dict[int, Attempts]]:
        """Return the counts of a group by partition and offset."""
        table = await self._tables.get(self._topic)
        if table is None:
            return {}
        wanted = {_key(group, topic, number): number for number in partitions}
        found: dict[int, dict[int, Attempts]] = {}
        for key, value in (await table.current()).items():
            prefix, _, offset = key.rpartition(b"\0")
            number = wanted.get(prefix)
            if number is not None:
                found.setdefault(number, {})[int(offset)] = Attempts(*_decode(value))
        return found

    async def save(
        self, group: str, topic: str, partition: int, offset: int, attempts: Attempts | None
    ) -> None:
        """Store a count; None deletes it."""
        value = None if attempts is None else _encode(tuple(attempts))
        await self._put(self._topic, _key(group, topic, partition) + b"\0%d" % offset, value)

    async def clear(self, group: str, topic: str, partitions: Iterable[int]) -> None:
        """Delete the counts of a group."""
        for number, counts in (await self.of(group, topic, partitions)).items():
            for offset in counts:
                await self.save(group, topic, number, offset, None)


def _key(group: str, topic: str, partition: int) -> bytes:
    return f"{group}\0{topic}\0{partition}".encode("utf-8", "surrogatepass")
