"""A lineage sink in memory: the newest records, for tests and to see the records that a sink receives."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from dimesh.capabilities import Capabilities, Capability, Support
from dimesh.errors import ConfigurationError, LineageError
from dimesh.options import Options, parse_options
from dimesh.spi import CONTRACT_VERSION, hookimpl
from dimesh.spi.context import PluginContext
from dimesh.spi.lineage import LineageRecord, LineageSink

_BATCH: Final = 1_000


class MemorySinkOptions(Options, frozen=True):
    """Options of the memory sink."""

    capacity: int = 100_000
    """The number of records to keep; older records are displaced and counted."""


class MemorySink:
    """See :class:`dimesh.spi.lineage.LineageSink`. It keeps its records when it is closed and opened again."""

    name = "memory"
    capabilities = Capabilities(
        read_back=Support.PARTIAL,
        notes={Capability.READ_BACK: "by the same process, the newest records up to the capacity"},
    )

    def __init__(self, options: MemorySinkOptions | None = None) -> None:
        options = options or MemorySinkOptions()
        if options.capacity < 1:
            raise ConfigurationError("lineage 'memory': capacity must be 1 or more")
        self.records: deque[LineageRecord] = deque(maxlen=options.capacity)
        """The records that are kept, oldest first."""
        self._displaced = 0
        self._open = False

    async def open(self) -> None:
        self._open = True

    async def write(self, records: Sequence[LineageRecord]) -> None:
        if not self._open:
            raise LineageError("lineage sink 'memory' is not open")
        before = len(self.records)
        self.records.extend(records)
        self._displaced += before + len(records) - len(self.records)

    async def read(self) -> AsyncIterator[Sequence[LineageRecord]]:
        held = iter(tuple(self.records))
        while batch := tuple(islice(held, _BATCH)):
            yield batch

    async def forget(self, before: float) -> int:
        kept = [record for record in self.records if record.timestamp >= before]
        removed = len(self.records) - len(kept)
        self.records.clear()
        self.records.extend(kept)
        return removed

    def stats(self) -> Mapping[str, Any]:
        return {"held": len(self.records), "displaced": self._displaced}

    async def close(self) -> None:
        self._open = False


class _Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_lineage_sink(self, options: Mapping[str, Any], context: PluginContext) -> LineageSink:
        return MemorySink(parse_options(MemorySinkOptions, options, "lineage 'memory'"))


plugin = _Plugin()
