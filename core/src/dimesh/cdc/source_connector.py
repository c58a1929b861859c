"""The connector for a source of the SPI."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, cast

from dimesh.bus.engine import EventBus
from dimesh.cdc.connector import CDCConnector
from dimesh.cdc.events import CDCEvent, CDCOffset
from dimesh.spi.cdc import CDCSource, Change


class SourceConnector(CDCConnector):
    """The connector for a source of the SPI, such as that of a plugin or the built-in outbox."""

    def __init__(
        self, connector_id: str, source: CDCSource, event_bus: EventBus, pillar: str = "", **options: Any
    ) -> None:
        super().__init__(connector_id, source.system, event_bus, pillar, **options)
        self._source = source

    @classmethod
    def split_options(cls, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the keywords that every connector takes, and the others, which are options of the source."""
        own = {name: value for name, value in options.items() if name in cls.OPTIONS}
        return own, {name: value for name, value in options.items() if name not in own}

    @property
    def source(self) -> CDCSource:
        """The source that the connector captures."""
        return self._source

    async def get_changes(self, object: str, since: CDCOffset | None = None) -> AsyncIterator[CDCEvent]:
        """Yield the changes after ``since`` (None: from now on), without end."""
        position = since.offset_value.encode() if since is not None else await self._source.position(object)
        async with aclosing(cast(Any, self._source.stream(object, position))) as batches:
            async for batch in batches:
                for item in batch.items:
                    if isinstance(item, Change):
                        yield CDCEvent.from_change(item, self.source_system)

    async def get_snapshot(self, object: str) -> AsyncIterator[CDCEvent]:
        """Yield all rows as they are now."""
        async with aclosing(cast(Any, self._source.snapshot(object, None))) as batches:
            async for batch in batches:
                for item in batch.items:
                    if isinstance(item, Change):
                        yield CDCEvent.from_change(item, self.source_system)
