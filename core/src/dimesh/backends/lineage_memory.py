"""A lineage sink in memory: the newest records, for tests and for looking at what a sink gets."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from dimesh.capabilities import Capabilities, Capability, Support
from dimesh.clock import Clock
from dimesh.errors import ConfigurationError, LineageError
from dimesh.hookspecs import CONTRACT_VERSION, hookimpl
from dimesh.spi.lineage import LineageRecord, LineageSink
from dimesh.spi.options import Options, parse_options

_BATCH: Final = 1_000


class MemorySinkOptions(Options, frozen=True):
    """Options of the memory sink."""

    capacity: int = 100_000
    """Records to keep; the oldest make room and are counted."""


class MemorySink:
    """See :class:`dimesh.spi.lineage.LineageSink`. Opened again it still holds its records."""

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
        """What it holds, oldest first."""
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
        gone = len(self.records) - len(kept)
        self.records.clear()
        self.records.extend(kept)
        return gone

    def stats(self) -> Mapping[str, Any]:
        return {"held": len(self.records), "displaced": self._displaced}

    async def close(self) -> None:
        self._open = False


class _Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_lineage_sink(self, options: Mapping[str, Any], clock: Clock) -> LineageSink:
        return MemorySink(parse_options(MemorySinkOptions, options, "lineage 'memory'"))


plugin = _Plugin()
