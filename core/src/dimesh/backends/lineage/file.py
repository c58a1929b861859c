"""The lineage log in a folder, as a sink; see :mod:`dimesh.backends.lineage.segments` for the format."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from dimesh.backends.lineage.segments import SegmentLog
from dimesh.capabilities import Capabilities, Capability, Support
from dimesh.clock import Clock, Handle, SystemClock
from dimesh.errors import ConfigurationError, StorageError
from dimesh.options import Options, is_path, parse_options
from dimesh.spi import CONTRACT_VERSION, hookimpl
from dimesh.spi.context import PluginContext
from dimesh.spi.lineage import LineageRecord, LineageSink

logger = logging.getLogger(__name__)


class FileSinkOptions(Options, frozen=True):
    """Options of the file sink."""

    path: str
    """The log's folder; one process writes to it, others may read."""
    durability: Literal["interval", "always"] = "interval"
    """With ``interval``, records survive a killed process as soon as they are written, and a power cut after
    ``sync_interval``. With ``always`` they survive both as soon as they are written, at the price of a disk sync for each
    batch."""
    sync_interval: float = 1.0
    """Seconds between disk syncs."""
    segment_bytes: int = 64 * 1024 * 1024
    """The approximate size of a segment; retention drops whole segments."""
    read_only: bool = False
    """Read a log that another process may be writing."""


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
                "lineage log %s: removed %d bytes of a write that a crash left unfinished",
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
            # The bytes stay marked as not synced: the next write or close tries again and reports the error.
            logger.warning("%s: until the next sync, a power cut could lose the newest records", error)
            if self._timer is None:
                self._timer = self._clock.call_later(self._options.sync_interval, self._start_sync)

    async def read(self) -> AsyncIterator[Sequence[LineageRecord]]:
        batches: Iterator[list[LineageRecord]] = self._log.read()
        known = len(self._log.damage)
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            yield batch
        damage = self._log.damage
        if len(damage) > known:
            (segment, offset), _ = next(iter(damage.items()))
            logger.warning(
                "lineage log %s: skipped %d damaged bytes at %d places, the first in segment %s at offset %d; answers are "
                "partial. Restore the file from a backup, or move it away to continue without its records",
                self._options.path,
                sum(damage.values()),
                len(damage),
                segment,
                offset,
            )

    async def forget(self, before: float) -> int:
        return await asyncio.to_thread(self._log.forget, before)

    def stats(self) -> Mapping[str, Any]:
        return {
            "torn_bytes": self._log.torn_bytes,
            "damaged_bytes": sum(self._log.damage.values()),
            "damaged_places": len(self._log.damage),
        }

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
    def dimesh_lineage_sink(self, options: Mapping[str, Any], context: PluginContext) -> LineageSink:
        return FileSink(parse_options(FileSinkOptions, options, "lineage 'file'"), context.clock)


plugin = _Plugin()
