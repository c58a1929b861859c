"""A connector that gives its changes itself (``get_changes`` and ``get_snapshot``), as a source for the runner."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

from dimesh.capabilities import Capabilities, Capability
from dimesh.cdc.events import CDCEvent, CDCOffset
from dimesh.spi.cdc import Change, ChangeBatch, CheckResult

if TYPE_CHECKING:
    from dimesh.cdc.connector import CDCConnector

BATCH: Final = 100


class OwnSource:
    """A connector's own get_changes and get_snapshot, as a source for the runner."""

    capabilities = Capabilities(Capability.SNAPSHOT, Capability.STREAM)

    def __init__(self, connector: CDCConnector) -> None:
        self._connector = connector
        self.system = connector.source_system

    async def open(self) -> None:
        """The connector connects by itself."""

    async def close(self) -> None:
        """Nothing is held here."""

    async def check(self) -> CheckResult:
        """A connector of one's own cannot be asked."""
        return CheckResult(True, {})

    async def position(self, object: str) -> bytes:
        """As the connector says."""
        return (await self._connector.get_position(object)).encode()

    async def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        """In batches; after an interruption it begins anew, with the same event ids."""
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
        """One call of get_changes after the other."""
        connector = self._connector
        while True:
            since = CDCOffset(
                connector.connector_id, self.system, object, position.decode(), datetime.now(UTC)
            )
            found = False
            async with aclosing(cast(Any, connector.get_changes(object, since))) as changes:
                async for change in changes:
                    found = True
                    position = (change.sequence or change.timestamp.isoformat()).encode()
                    yield ChangeBatch([_change(change)], position)
            if not found:
                await connector.event_bus.clock.sleep(connector.poll)

    async def acknowledge(self, object: str, position: bytes) -> None:
        """Nothing to clean up."""


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
