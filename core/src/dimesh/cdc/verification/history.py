"""Finds out whether the bus still has a published delete of a row."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from dimesh.bus.backwards import BackwardsReader
from dimesh.bus.engine import EventBus
from dimesh.cdc.absences import split
from dimesh.cdc.events import key_text
from dimesh.errors import BusError, EventError

MOST: Final = 50_000
"""The largest number of records of each partition that are searched, from the newest on."""


class History:
    """The deletes of one object that were published.

    Args:
        bus: the bus.
        topic: the topic of the changes.
        connector_id: the connector.
        object_: the captured object.
    """

    def __init__(self, bus: EventBus, topic: str, connector_id: str, object_: str) -> None:
        self._bus = bus
        self._topic = topic
        self._connector_id = connector_id
        self._object = object_

    async def deleted(self, keys: Collection[str]) -> frozenset[str]:
        """Return those keys of the store of whose rows a delete was published, as far as the bus can be searched."""
        wanted = {}
        for key in keys:
            name, primary_key = split(key, self._object)
            wanted[name, key_text(primary_key)] = key
        found: set[str] = set()
        try:
            info = next((t for t in await self._bus.door.topics() if t.name == self._topic), None)
            if info is None or not info.latest:
                return frozenset()
            reader = BackwardsReader(self._bus, info, 1_000, MOST)
            while reader.unread and len(found) < len(wanted):
                async for page in reader.window():
                    for delivery in page:
                        if delivery.record.event_type != "cdc.delete":
                            continue
                        payload = delivery.record.event.payload
                        if payload.get("connector_id") == self._connector_id:
                            row = payload["object"], key_text(payload["primary_key"])
                            found.update(key for key in (wanted.get(row),) if key is not None)
        except (BusError, EventError, LookupError, TypeError):
            pass  # the bus keeps no history, or others wrote to the topic: the rows count as missing
        return frozenset(found)
