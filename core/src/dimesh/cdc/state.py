"""The progress of a captured object, and how it is stored.

On a bus with the capability ``atomic-state``, the position is stored in the transaction that publishes the changes. On any
other bus it is stored after the acknowledgement: a crash in between repeats changes, with the same event ids, and loses none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from dimesh.bus.door import Operation
from dimesh.bus.engine import EventBus
from dimesh.capabilities import Capability
from dimesh.errors import CDCError
from dimesh.events.event import Event
from dimesh.spi.cdc import Gap
from dimesh.spi.state import StateStore

_MAX_CAUSE: Final = 1_000
_RELIST_PAUSE: Final = 9.0
"""The pause after a listing that no gap asked for, as a multiple of its duration."""


def progress_key(connector_id: str, object: str) -> str:
    """Return the key under which the progress and the rows of an object are stored."""
    return f"cdc/{connector_id}/{object}"


class Progress(msgspec.Struct, array_like=True, kw_only=True):
    """The progress of one object. The order of the fields is the stored format; new fields go to the end."""

    phase: Literal["snapshot", "stream"] = "snapshot"
    position: bytes
    """While streaming, the position to resume from; during a snapshot, the position at which the stream will start."""
    resume: bytes | None = None
    """The position of the last published batch of a snapshot; None outside a snapshot."""
    rows: int = 0
    """The number of rows of the snapshot that are published so far."""
    repair: str = ""
    """The cause of the gap that the snapshot repairs; empty if it repairs none."""
    generation: int = 0
    """The number of repairs so far. A row that the latest repair has not seen was deleted."""
    batch: int = 0
    """The number of published batches with changes. Stored rows are valid only if they belong to the same batch."""
    snapshot_end: float = 0.0
    """The time at which the last snapshot ended. Earlier changes may be contained in its rows already."""
    epoch: int = 0
    """The time of the first start in milliseconds, so that snapshots after a reset have other names than before."""
    at: float = 0.0
    """The time at which this was stored. Times are seconds of the wall clock."""
    pending_repair: str = ""
    """While streaming, the causes of gaps that are waiting for a repair by a new snapshot; empty if there are none."""
    repair_began: float = 0.0
    """The time at which the last repair started; 0 if there was none."""
    repair_after: float = 0.0
    """The earliest time at which the next repair may start."""
    gap_since: float = 0.0
    """The start of the earliest gap that is pending or being repaired; 0: there is none, or it is unknown."""
    relisting: bool = False
    """Whether the snapshot lists the rows again because the stream does not report all changes."""

    def start_resnapshot(self, cause: str, now: float) -> Progress:
        """Return the progress at the start of a snapshot that repairs a gap. The stream will resume from its current position."""
        return Progress(
            position=self.position,
            repair=cause,
            epoch=self.epoch,
            generation=self.generation + 1,
            batch=self.batch,
            at=self.at,
            repair_began=now,
            gap_since=self.gap_since,
        )

    def start_relisting(self, now: float) -> Progress:
        """Return the progress at the start of a snapshot that finds changes which the stream does not report."""
        return replace(self.start_resnapshot("", now), relisting=True)

    def relist_at(self, interval: float) -> float:
        """Return the time at which the rows are due to be listed again."""
        took = self.snapshot_end - self.repair_began if self.repair_began else 0.0
        return self.snapshot_end + max(interval, took * _RELIST_PAUSE)

    def with_gaps(self, gaps: Sequence[Gap]) -> Progress:
        """Return the progress with the gaps pending that only a new snapshot repairs."""
        causes = [gap.cause for gap in gaps if gap.resnapshot]
        if not causes:
            return self
        starts = [gap.since.timestamp() for gap in gaps if gap.resnapshot and gap.since is not None]
        since = min([self.gap_since] * bool(self.gap_since) + starts, default=0.0)
        known = self.pending_repair or self.repair
        new = [cause for cause in dict.fromkeys(causes) if cause not in known]
        pending = "; ".join([known, *new] if known else new)[:_MAX_CAUSE]
        return replace(self, pending_repair=pending, gap_since=since)

    def enter_streaming(self, now: float, pause: float) -> Progress:
        """Return the progress at the end of a snapshot.

        After a repair, the next one waits for the duration of this one times ``pause``. So repairs leave time and requests
        for everything else, however often gaps are reported.
        """
        took = max(now - self.repair_began, 0.0) if self.repair else 0.0
        return Progress(
            phase="stream",
            position=self.position,
            epoch=self.epoch,
            generation=self.generation,
            batch=self.batch,
            snapshot_end=now,
            at=self.at,
            repair_began=self.repair_began,
            repair_after=now + took * pause if self.repair else 0.0,
        )

    @property
    def snapshot_epoch(self) -> str:
        """The name of the current snapshot, which differs from those of all other snapshots of the object."""
        return f"{self.epoch}.{self.generation}"


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Progress).decode


class MemoryState:
    """A state store in memory."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    async def load(self, key: str) -> bytes | None:
        """Return the value that was saved last under ``key``, or None."""
        return self.values.get(key)

    async def save(self, key: str, value: bytes | None) -> None:
        """Replace the value of ``key``; None removes it."""
        if value is None:
            self.values.pop(key, None)
        else:
            self.values[key] = value


class ProgressLog:
    """Publishes changes and stores the progress, in one transaction if the bus supports that.

    Args:
        bus: the bus.
        state: the store for a bus that does not support it; None: a store in memory.
    """

    def __init__(self, bus: EventBus, state: StateStore | None = None) -> None:
        self._bus = bus
        self._atomic = Capability.ATOMIC_STATE in bus.capabilities and state is None
        self._state = state or MemoryState()

    async def load_raw(self, key: str) -> bytes | None:
        """Return the stored progress as it is stored; None if there is none."""
        if self._atomic:
            await self._bus.open()
            raw = await self._bus.door.load_state(key)
        else:
            raw = await self._state.load(key)
        return raw or None

    async def load(self, key: str) -> Progress | None:
        """Return the stored progress; None if there is none.

        Raises:
            CDCError: the stored progress cannot be decoded.
        """
        raw = await self.load_raw(key)
        if raw is None:
            return None
        try:
            return _decode(raw)
        except msgspec.MsgspecError as error:
            raise CDCError(
                f"the stored progress {key!r} cannot be decoded ({error}): reset the connector"
            ) from error

    async def publish(
        self, topic: str, events: Sequence[Event], keys: Sequence[str], key: str, progress: Progress
    ) -> None:
        """Publish events and store the progress."""
        if self._atomic:
            await self._bus.publish_many(topic, events, keys=keys, state={key: _encode(progress)})
            return
        if events:
            await self._bus.publish_many(topic, events, keys=keys)
        await self._state.save(key, _encode(progress))

    async def reset(self, key: str) -> None:
        """Delete the progress: the next start begins with a snapshot."""
        await self.replace({key: None})

    async def replace(self, values: Mapping[str, bytes | None]) -> None:
        """Replace progress as it is stored; None deletes. On a bus with the capability ``atomic-state``, in one transaction."""
        if self._atomic and values:
            await self._bus.open()
            stored = {key: value or b"" for key, value in values.items()}
            await self._bus.door.append("dimesh.cdc", (), state=stored, operation=Operation.PUBLISH)
        elif values:
            for key, value in values.items():
                await self._state.save(key, value)
