"""The lineage log in a folder, as a sink; see :mod:`dimesh.lineage.segments` for the format."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from dimesh.capabilities import Capabilities, Capability, Support
from dimesh.clock import Clock, Handle, SystemClock
from dimesh.errors import ConfigurationError, StorageError
from dimesh.hookspecs import CONTRACT_VERSION, hookimpl
from dimesh.lineage.segments import SegmentLog
from dimesh.spi.lineage import LineageRecord, LineageSink
from dimesh.spi.options import Options, is_path, parse_options

logger = logging.getLogger(__name__)


class FileSinkOptions(Options, frozen=True):
    """Options of the file sink."""

    path: str
    """The log's folder; one process writes to it, others may read."""
    durability: Literal["interval", "always"] = "interval"
    """``interval``: written records survive a killed process at once and a power cut after ``sync_interval``;
    ``always``: both at once, at the price of a disk sync for each batch."""
    sync_interval: float = 1.0
    """Seconds between disk syncs."""
    segment_bytes: int = 64 * 1024 * 1024
    """Retention drops whole segments of about this size."""
    read_only: bool = False
    """Look at a log that another process may be writing."""


class FileSink:
    """See :class:`dimesh.spi.lineage.LineageSink`."""

    name = "file"

    def __init__(self, options: FileSinkOptions, clock: Clock | None = None) -> None:
        if not is_path(options.path):
            raise ConfigurationError("lineage 'file': path must name a folder")
        if options.sync_interval <= 0 or options.segment_bytes < 4_096:
            raise ConfigurationError(
                "lineage 'file': sync_interval must be positive, segment_bytes 4,096 or more"
            )
        self.capabilities = Capabilities(
            Capability.READ_BACK,
            Capability.DURABLE,
            Capability.RETENTION,
            power_safe=Support.FULL if options.durability == "always" else Support.PARTIAL,
            notes={Capability.POWER_SAFE: "with durability = 'always'; else after sync_interval"},
        )
        self._options = options
        self._clock = clock or SystemClock()
        self._log = SegmentLog(Path(options.path), options.segment_bytes, options.read_only)
        self._timer: Handle | None = None
        self._syncing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await asyncio.to_thread(self._log.open)
        if self._log.torn_bytes:
            logger.warning(
                "lineage log %s: cut off %d bytes of a write that a crash left unfinished",
                self._options.path,
                self._log.torn_bytes,
            )

    async def write(self, records: Sequence[LineageRecord]) -> None:
        always = self._options.durability == "always"
        await asyncio.to_thread(self._log.append, records, always)
        if not always and self._timer is None:
            self._timer = self._clock.call_later(self._options.sync_interval, self._start_sync)

    def _start_sync(self) -> None:
        self._timer = None
        self._syncing = asyncio.get_running_loop().create_task(self._sync())

    async def _sync(self) -> None:
        try:
            await asyncio.to_thread(self._log.sync)
        except StorageError as error:
            # The bytes stay marked as unsynced: the next write or close tries again and reports it.
            logger.warning("%s: a power cut now could lose the newest records", error)
            if self._timer is None:
                self._timer = self._clock.call_later(self._options.sync_interval, self._start_sync)

    async def read(self) -> AsyncIterator[Sequence[LineageRecord]]:
        batches: Iterator[list[LineageRecord]] = self._log.read()
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            yield batch

    async def forget(self, before: float) -> int:
        return await asyncio.to_thread(self._log.forget, before)

    def stats(self) -> Mapping[str, Any]:
        return {"torn_bytes": self._log.torn_bytes}

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._syncing is not None:
            await asyncio.gather(self._syncing, return_exceptions=True)
            self._syncing = None
        await asyncio.to_thread(self._log.close)


class _Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_lineage_sink(self, options: Mapping[str, Any], clock: Clock) -> LineageSink:
        return FileSink(parse_options(FileSinkOptions, options, "lineage 'file'"), clock)


plugin = _Plugin()
