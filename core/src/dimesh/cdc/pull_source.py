"""Adapter: a connector with methods that are polled (``get_changes``, ``get_snapshot``), as a source for the runner."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final, Protocol, cast

from dimesh.capabilities import Capabilities, Capability
from dimesh.cdc.events import CDCEvent, CDCOffset
from dimesh.clock import Clock
from dimesh.contact import report_delivered, report_reached
from dimesh.spi.cdc import Change, ChangeBatch, CheckResult

BATCH: Final = 100
"""The number of snapshot rows in one batch."""


class Pulled(Protocol):
    """The methods of a connector that the adapter calls; :class:`~dimesh.cdc.connector.CDCConnector` documents them."""

    def get_changes(self, object: str, since: CDCOffset | None = None) -> AsyncIterator[CDCEvent]:
        """Yield the changes after ``since``, oldest first, and end when there are no more for now."""
        ...

    def get_snapshot(self, object: str) -> AsyncIterator[CDCEvent]:
        """Yield all rows as they are now."""
        ...

    async def get_position(self, object: str) -> str:
        """Return the position from which a stream misses nothing that happens from now on."""
        ...


class PullSource:
    """A source that polls a connector's own methods.

    Args:
        connector: the connector.
        connector_id: its id, for the offsets that it is given.
        system: the name of the source system.
        clock: the clock to wait by.
        poll: seconds between two calls of ``get_changes`` when there are no changes.
    """

    capabilities = Capabilities(Capability.SNAPSHOT, Capability.STREAM)

    def __init__(self, connector: Pulled, connector_id: str, system: str, clock: Clock, poll: float) -> None:
        self.system = system
        self._connector = connector
        self._connector_id = connector_id
        self._clock = clock
        self._poll = poll

    async def open(self) -> None:
        """Do nothing: the connector connects by itself."""

    async def close(self) -> None:
        """Do nothing: the adapter holds no resources."""

    async def check(self) -> CheckResult:
        """Report no problems: the methods of such a connector cannot be checked without calling them."""
        return CheckResult(True, {})

    async def position(self, object: str) -> bytes:
        """Return the position that the connector gives."""
        return (await self._connector.get_position(object)).encode()

    async def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        """Yield the rows in batches. After an interruption it starts again at the first row, with the same event ids."""
        batch: list[Change] = []
        async with aclosing(cast(Any, self._connector.get_snapshot(object))) as changes:
            async for change in changes:
                batch.append(_change(change))
                if len(batch) >= BATCH:
                    yield ChangeBatch(batch, b"")
                    batch = []
        if batch:
            yield ChangeBatch(batch, b"")

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        """Call ``get_changes`` repeatedly and yield each change in a batch of its own."""
        while True:
            now = datetime.fromtimestamp(self._clock.time(), UTC)
            since = CDCOffset(self._connector_id, self.system, object, position.decode(), now)
            found, began = False, self._clock.time()
            async with aclosing(cast(Any, self._connector.get_changes(object, since))) as changes:
                async for change in changes:
                    found = True
                    position = (change.sequence or change.timestamp.isoformat()).encode()
                    yield ChangeBatch([_change(change)], position)
            report_reached()
            report_delivered(began)
            if not found:
                await self._clock.sleep(self._poll)

    async def acknowledge(self, object: str, position: bytes) -> None:
        """Do nothing: there is nothing to clean up."""


def _change(event: CDCEvent) -> Change:
    identity = event.identity or json.dumps(
        [dict(event.primary_key), event.sequence, event.timestamp.isoformat()], default=str, sort_keys=True
    )
    return Change(
        identity,
        event.operation,
        event.table_or_object,
        event.primary_key,
        event.before,
        event.after,
        event.timestamp,
        event.sequence,
        event.before_from,
        event.changed_fields,
        event.partial,
        event.actor,
        event.own,
        event.transaction,
        event.api_version,
        event.visible,
        event.as_of,
        event.metadata,
    )
