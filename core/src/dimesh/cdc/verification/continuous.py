"""Verification beside the capture, within a part of the account's requests."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from dimesh.cdc.reports import VerifiedReport
from dimesh.cdc.verification.sampling import sample
from dimesh.cdc.verification.tally import MOST_LISTED, Tally
from dimesh.cdc.verification.verifier import MOST_SUSPICIONS, Verifier
from dimesh.clock import Clock
from dimesh.errors import DimeshError
from dimesh.printable import printable
from dimesh.sourcekit.budget import Allowance
from dimesh.spi.state import RowStore

log = logging.getLogger("dimesh.cdc")

NOTICE: Final = 3_600.0
"""The seconds between two ``cdc.verified`` events of an object without new errors."""
SOON: Final = 60.0
"""The seconds from an event to the next one when there are new errors."""
_SAMPLE: Final = 500
"""The number of keys that are drawn from the store at once."""
_ASK: Final = 10
"""The number of published rows that are asked for in one step."""
_LIST: Final = 100
"""The number of published rows in one list."""
_PAUSE: Final = 1.0
"""The shortest pause between two steps, in seconds: of a source without a budget, too."""
_AFTER_FAILURE: Final = 60.0

Publish = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(slots=True)
class _Verified:
    """The state of one object."""

    verifier: Verifier
    key: str
    publish: Publish
    total: Tally
    noticed: float = 0.0
    """The time of the last event."""
    sample: list[str] = field(default_factory=list)
    asked: int = 0
    """The number of requests that asked for published rows."""
    listed: int = 0
    """The number of requests that listed rows."""
    resume_at: float = 0.0


class ContinuousVerification:
    """Verifies the objects of one connector in turn, for as long as :meth:`run` runs.

    Args:
        connector_id: the connector, for the log.
        store: the store of the connector's rows.
        share: the largest part of the account's requests to use.
        clock: time.
        rng: chooses the rows.
    """

    def __init__(
        self, connector_id: str, store: RowStore, share: float, clock: Clock, rng: random.Random
    ) -> None:
        self._connector_id = connector_id
        self._store = store
        self._clock = clock
        self._rng = rng
        self._allowance = Allowance(clock, share)
        self._objects: dict[str, _Verified] = {}

    def add(self, verifier: Verifier, key: str, publish: Publish) -> None:
        """Verify an object.

        Args:
            verifier: its verifier.
            key: the key of its rows in the store.
            publish: publishes what was found.
        """
        now = self._clock.time()
        self._objects[verifier.object] = _Verified(verifier, key, publish, Tally(now))

    def report(self, object: str) -> VerifiedReport | None:
        """Return what was found in an object so far; None if it is not verified."""
        one = self._objects.get(object)
        if one is None:
            return None
        total = Tally(one.total.since)
        total.add(one.total)
        total.add(one.verifier.tally)
        return total.report(self._clock.time())

    async def run(self) -> None:
        """Verify until cancelled."""
        with self._allowance.spend():
            while True:
                for one in list(self._objects.values()):
                    if one.resume_at <= self._clock.time():
                        await self._guarded(one)
                    await self._clock.sleep(_PAUSE)
                if not self._objects:
                    await self._clock.sleep(_AFTER_FAILURE)

    async def _guarded(self, one: _Verified) -> None:
        """Verify a few rows. An error ends neither the verification nor the capture, which reports it."""
        name = printable(one.verifier.object)
        before = self._allowance.requests
        try:
            if (await one.verifier.feed.standing()).obstacle is None:
                await self._step(one)
            one.verifier.tally.requests += self._allowance.requests - before
            await self._notify(one)
        except DimeshError as error:
            log.info("source %s, object %s cannot be verified now: %s", self._connector_id, name, error)
            one.resume_at = self._clock.time() + _AFTER_FAILURE
        except Exception as error:
            log.warning(
                "source %s, object %s: verification failed: %s",
                self._connector_id,
                name,
                error,
                exc_info=error,
            )
            one.resume_at = self._clock.time() + _AFTER_FAILURE

    async def _step(self, one: _Verified) -> None:
        verifier = one.verifier
        await verifier.settle()
        if verifier.pending >= MOST_SUSPICIONS:
            return
        if not one.sample:
            one.sample = await sample(self._store, one.key, _SAMPLE, self._rng)
        before = self._allowance.requests
        lists = await verifier.lists()
        if lists and one.listed <= one.asked:
            await verifier.check_listed(one.sample.pop() if one.sample else "", _LIST)
            # A step without requests counts, too: both directions take turns.
            one.listed += max(self._allowance.requests - before, 1)
        elif one.sample:
            some, one.sample = one.sample[-_ASK:], one.sample[:-_ASK]
            await verifier.check_published(some)
            one.asked += max(self._allowance.requests - before, 1)

    async def _notify(self, one: _Verified) -> None:
        """Publish what was found since the last event: every hour, and soon after a new error."""
        now, tally = self._clock.time(), one.verifier.tally
        new = [error for key, error in tally.wrong.items() if key not in one.total.wrong]
        due = one.noticed + SOON if new else tally.since + NOTICE
        if now < due or not (tally.rows or tally.incomparable):
            return
        one.verifier.tally = Tally(now)
        one.noticed = now
        one.total.add(tally)
        if new:
            log.warning(
                "source %s, object %s: %d rows differ from what was published (%s): see the cdc.verified event, or "
                "'dimesh cdc verify'",
                self._connector_id,
                printable(one.verifier.object),
                len(new),
                ", ".join(sorted({error.kind.value for error in new})),
            )
        listed = [*new, *(error for error in tally.wrong.values() if error not in new)][:MOST_LISTED]
        errors = [error.described(one.verifier.object) for error in listed]
        since, until = (datetime.fromtimestamp(at, UTC).isoformat() for at in (tally.since, now))
        await one.publish({"since": since, "until": until, **tally.numbers(), "errors": errors})
