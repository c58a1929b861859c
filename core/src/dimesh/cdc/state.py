"""Where the runner keeps how far it is.

With a bus that offers ``atomic-state`` the position is stored in the transaction that publishes the changes. Otherwise it
is stored after the acknowledgement: a crash in between repeats changes, with the same event ids, and loses none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Protocol

import msgspec
from msgspec.structs import replace

from dimesh.bus.engine import EventBus
from dimesh.capabilities import Capability
from dimesh.errors import CDCError
from dimesh.events.event import Event
from dimesh.spi.cdc import Gap

_LONGEST_CAUSE: Final = 1_000


def progress_key(connector_id: str, object: str) -> str:
    """What positions and rows of an object are kept by."""
    return f"cdc/{connector_id}/{object}"


class Progress(msgspec.Struct, array_like=True, kw_only=True):
    """How far one object is."""

    phase: Literal["snapshot", "stream"] = "snapshot"
    position: bytes
    """While streaming, where to go on; during a snapshot, where the stream will begin."""
    resume: bytes | None = None
    """During a snapshot, the last batch that is published."""
    rows: int = 0
    """Rows of the snapshot published so far."""
    repair: str = ""
    """During a snapshot after a gap: its cause."""
    generation: int = 0
    """How often the object was repaired: rows that a repair has not seen are gone."""
    batch: int = 0
    """How many batches with changes are published: what is remembered of rows is right if it is of the same batch."""
    snapshot_end: float = 0.0
    """When the last snapshot ended; changes from before that may be in its rows already."""
    epoch: int = 0
    """When it was begun, in ms: after a reset the readings of rows have other names than before."""
    at: float = 0.0
    """When this was stored. Times are seconds of the wall clock."""
    owed: str = ""
    """While streaming: causes of gaps that are to be repaired by reading all rows."""
    repair_began: float = 0.0
    """When the last repair began; 0: there was none."""
    repair_after: float = 0.0
    """When the next may begin."""

    def again(self, cause: str, now: float) -> Progress:
        """All rows are to be read anew, for this cause; the stream goes on from where it is."""
        return Progress(
            position=self.position,
            repair=cause,
            epoch=self.epoch,
            generation=self.generation + 1,
            batch=self.batch,
            at=self.at,
            repair_began=now,
        )

    def owing(self, gaps: Sequence[Gap]) -> Progress:
        """After gaps were told."""
        causes = [gap.cause for gap in gaps if gap.resnapshot]
        if not causes:
            return self
        known = self.owed or self.repair
        new = [cause for cause in dict.fromkeys(causes) if cause not in known]
        return replace(self, owed="; ".join([known, *new] if known else new)[:_LONGEST_CAUSE])

    def streaming(self, now: float, pause: float) -> Progress:
        """The snapshot is over. If it was a repair, the next one waits for so many times of what this one took: then repairs
        leave time, and requests, for everything else, whatever tells of gaps how often.
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
    def reading(self) -> str:
        """Tells this reading of the rows from others of the object."""
        return f"{self.epoch}.{self.generation}"


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Progress).decode


class StateStore(Protocol):
    """Keeps small values by key, durably."""

    async def load(self, key: str) -> bytes | None:
        """The value saved last."""
        ...

    async def save(self, key: str, value: bytes | None) -> None:
        """Replace it; None removes it."""
        ...


class MemoryState:
    """Values of this process only."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    async def load(self, key: str) -> bytes | None:
        """The value saved last."""
        return self.values.get(key)

    async def save(self, key: str, value: bytes | None) -> None:
        """Replace it."""
        if value is None:
            self.values.pop(key, None)
        else:
            self.values[key] = value


class ProgressLog:
    """Publishes changes and stores the progress, together where the bus can.

    Args:
        state: for buses that cannot; None: memory.
    """

    def __init__(self, bus: EventBus, state: StateStore | None = None) -> None:
        self._bus = bus
        self._atomic = Capability.ATOMIC_STATE in bus.capabilities and state is None
        self._state = state or MemoryState()

    async def load(self, key: str) -> Progress | None:
        """The progress stored last.

        Raises:
            CDCError: it is not readable.
        """
        if self._atomic:
            await self._bus.open()
            raw = await self._bus.backend.load_state(key)
        else:
            raw = await self._state.load(key)
        if not raw:
            return None
        try:
            return _decode(raw)
        except msgspec.MsgspecError as error:
            raise CDCError(
                f"the stored position {key!r} cannot be read ({error}): reset the connector"
            ) from error

    async def publish(
        self, topic: str, events: Sequence[Event], keys: Sequence[str], key: str, progress: Progress
    ) -> None:
        """Publish, and store the progress."""
        if self._atomic:
            await self._bus.publish_many(topic, events, keys=keys, state={key: _encode(progress)})
            return
        if events:
            await self._bus.publish_many(topic, events, keys=keys)
        await self._state.save(key, _encode(progress))

    async def reset(self, key: str) -> None:
        """Forget the progress: the next start begins with a snapshot."""
        if self._atomic:
            await self._bus.open()
            await self._bus.backend.append("dimesh.cdc", (), state={key: b""})
        else:
            await self._state.save(key, None)
