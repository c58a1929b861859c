"""The turn of this process to capture a connector. Two processes that captured it at the same time would publish everything twice
and overwrite each other's positions: the second one waits, and takes over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from dimesh.bus.engine import EventBus
from dimesh.capabilities import Capability
from dimesh.cdc.presence import Presence
from dimesh.cdc.reports import HEARTBEAT, STALE, load_report
from dimesh.clock import Clock
from dimesh.errors import ConfigurationError, DimeshError, StorageError
from dimesh.printable import printable
from dimesh.spi.state import CaptureStore, Claim, StateStore
from dimesh.storage.process import process_name

log = logging.getLogger("dimesh.cdc")

LOOK_AGAIN: Final = 1.0
"""Seconds between two attempts of a process that waits for the claim."""


class Standby(msgspec.Struct, frozen=True):
    """A process that waits to take over."""

    process: str
    at: float


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Standby).decode


def _standby_key(connector_id: str) -> str:
    return f"standby of {connector_id}"


async def load_standby(store: StateStore, connector_id: str, now: float) -> Standby | None:
    """Return the process that waits to take over a connector; None if there is none."""
    raw = await store.load(_standby_key(connector_id))
    try:
        found = _decode(raw) if raw else None
    except msgspec.MsgspecError:
        return None
    return found if found is not None and now - found.at < STALE else None


class Turn:
    """The exclusive right to capture a connector: by a claim where processes share the store, by their presence on the bus where
    they share nothing else.

    Args:
        connector_id: the connector.
        bus: the bus.
        store: the store; None: there is no claim.
        clock: time.
        on_rival: called when another process captures as well, and takes precedence.
    """

    def __init__(
        self,
        connector_id: str,
        bus: EventBus,
        store: CaptureStore | None,
        clock: Clock,
        on_rival: Callable[[], None],
    ) -> None:
        self.taken = asyncio.Event()
        """An event that is set while it is this process's turn."""
        self._connector_id = connector_id
        self._bus = bus
        self._store = store
        self._clock = clock
        self._on_rival = on_rival
        self._claim: Claim | None = None
        self._presence: Presence | None = None
        self._reminding: asyncio.Task[None] | None = None

    async def take(self, *, ask: bool = False) -> bool:
        """Take the turn, unless another process has it; return whether it was taken.

        Args:
            ask: whether to ask on the bus for processes that do not share the store.

        Raises:
            ConfigurationError: the state of the connector is being moved.
            StorageError: the store cannot be read or locked.
        """
        if self.taken.is_set():
            return True
        if not await self._take_claim():
            return False
        if ask and not await self._alone():
            return False
        self.taken.set()
        return True

    async def wait(self) -> None:
        """Wait until no other process has the turn, and take it."""
        while self._store is not None and self._claim is None:
            await self._announce(self._store)
            await self._wait_for_claim()
        if not await self._alone():
            assert self._presence is not None
            rival = self._presence.rival
            log.warning(
                "source %s is captured by another process on the same bus (%s): this one waits, and takes over when it ends",
                self._connector_id,
                printable(rival.process) if rival is not None else "unknown",
            )
            await self._presence.wait()
        log.warning("source %s is captured by this process from now on", self._connector_id)
        self.taken.set()

    async def release(self) -> None:
        """Give the turn up, also while waiting for it."""
        self.taken.clear()
        if self._reminding is not None:
            self._reminding.cancel()
            self._reminding = None
        if self._presence is not None:
            await self._presence.close()
            self._presence = None
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    async def _take_claim(self) -> bool:
        if self._store is None or self._claim is not None:
            return True
        claim = await self._store.claim(self._connector_id)
        if claim is None:
            return False
        move = await self._store.moving(self._connector_id)
        if move is not None:
            claim.release()
            raise ConfigurationError(str(move))
        self._claim = claim
        return True

    async def _announce(self, store: CaptureStore) -> None:
        report = await load_report(store, self._connector_id)
        log.warning(
            "source %s is captured by another process%s: this one waits, and takes over when that one ends",
            self._connector_id,
            f" ({printable(report.process)})" if report is not None and report.process else "",
        )

    async def _wait_for_claim(self) -> None:
        assert self._store is not None
        key = _standby_key(self._connector_id)
        stored = float("-inf")
        try:
            while True:
                try:
                    if self._clock.monotonic() - stored >= HEARTBEAT:
                        await self._store.save(key, _encode(Standby(process_name(), self._clock.time())))
                        stored = self._clock.monotonic()
                    if await self._take_claim():
                        return
                except (StorageError, ConfigurationError) as error:
                    log.warning("source %s: cannot take over: %s", self._connector_id, error)
                await self._clock.sleep(LOOK_AGAIN)
        finally:
            try:
                await self._store.save(key, None)
            except StorageError as error:
                log.debug("source %s: %s", self._connector_id, error)

    async def _alone(self) -> bool:
        """Return whether no process on the bus takes precedence, as far as that can be known."""
        if Capability.MULTI_PROCESS not in self._bus.capabilities:
            return True
        if self._presence is None:
            self._presence = Presence(self._bus, self._connector_id, self._on_rival)
        try:
            alone = await self._presence.alone()
        except DimeshError as error:
            log.warning(
                "source %s: cannot find out whether a process on another machine captures it: %s",
                self._connector_id,
                error,
            )
            return True
        if self._reminding is None:
            self._reminding = asyncio.create_task(
                self._presence.remind(), name=f"dimesh-cdc-{self._connector_id}-presence"
            )
        return alone
