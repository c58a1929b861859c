"""Several connected accounts in one source.

Each account has its own lists and its own feed, which are read with the header ``Stripe-Account`` (reference, *Making API calls
for connected accounts*). A reader of one account is the ordinary source. This source merges them: the account becomes part of
each primary key, since ids that users choose are the same in several accounts, and a position has the position of each account.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from dimesh import contact
from dimesh.clock import Clock
from dimesh.errors import CredentialsError, SourceObjectError, SourcePositionLostError
from dimesh.sourcekit.positions import PositionCodec
from dimesh.spi.cdc import Change, ChangeBatch, CheckResult, Gap
from dimesh.tasks import end_tasks
from dimesh_stripe.options import StripeOptions
from dimesh_stripe.source import StripeSource

if TYPE_CHECKING:
    from starlette.applications import Starlette

log = logging.getLogger("dimesh.cdc.stripe")

REFUSED_PAUSE: Final = 60.0
"""The number of seconds after which an account is tried again that the key may not read."""
OF_THE_PLATFORM: Final = frozenset({"account", "capability", "external_account", "person"})
"""The objects that only the platform itself lists."""


class AccountsPosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The position of a stream of several accounts."""

    accounts: dict[str, bytes]
    """The position of each account."""


class AccountsSnapshot(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The position of a snapshot of several accounts, which are read one after another in the order of their ids."""

    account: str
    """The account whose rows are being read."""
    resume: bytes
    """The position within that account."""


POSITIONS: Final = PositionCodec(AccountsPosition, "Stripe")
SNAPSHOTS: Final = PositionCodec(AccountsSnapshot, "Stripe")


class Delivered:
    """Listens to the feed of one account: all accounts together have delivered what the slowest one has.

    Args:
        listener: the listener to the source as a whole.
        everyone: the listeners of all accounts.
    """

    def __init__(self, listener: contact.ContactListener, everyone: list[Delivered]) -> None:
        self._listener = listener
        self._everyone = everyone
        self.handed = 0
        """The number of batches that the feed has handed on."""
        self.taken = 0
        """The number of batches that were taken over from the source."""
        self._until: deque[tuple[int, float]] = deque()
        """Moments up to which the feed is complete with a number of batches."""
        self.complete = 0.0
        everyone.append(self)

    def requested(self) -> None:
        """Pass the report on."""
        self._listener.requested()

    def reached(self) -> None:
        """Pass the report on."""
        self._listener.reached()

    def missed(self, reason: str) -> None:
        """Pass the report on."""
        self._listener.missed(reason)

    def delivered(self, until: float) -> None:
        """Note the moment; its batches may still wait to be taken over."""
        if self._until and self._until[-1][0] == self.handed:
            self._until.pop()
        self._until.append((self.handed, until))
        self.announce()

    def announce(self) -> None:
        """Report the moment up to which all accounts are complete."""
        while self._until and self._until[0][0] <= self.taken:
            self.complete = self._until.popleft()[1]
        complete = min(one.complete for one in self._everyone)
        if complete > 0:
            self._listener.delivered(complete)


class ConnectedAccounts:
    """Reads the connected accounts that the options name; see :class:`dimesh.spi.cdc.CDCSource`."""

    system = StripeSource.system
    read_lag = StripeSource.read_lag
    changed_at = StripeSource.changed_at
    capabilities = StripeSource.capabilities

    def __init__(self, options: StripeOptions, clock: Clock) -> None:
        self.options = options
        self._clock = clock
        self._sources = {
            id: StripeSource(msgspec.structs.replace(options, account=id, accounts=[]), clock, budget="")
            for id in sorted(set(options.accounts))
        }
        self._any = next(iter(self._sources.values()))

    async def open(self) -> None:
        """Connect, and check that the key may read events of at least one account; streams try the others again."""
        refused: CredentialsError | None = None
        for source in self._sources.values():
            await source.connect()
        for source in self._sources.values():
            try:
                return await source.check_events()
            except CredentialsError as error:
                refused = error
        await self.close()
        assert refused is not None
        raise refused

    async def close(self) -> None:
        """Close the connections; may be called twice."""
        for source in self._sources.values():
            await source.close()

    async def check(self) -> CheckResult:
        """Check what the key may read of each account; an obstacle is named with its account."""
        problems: list[str] = []
        objects: dict[str, str] = {}
        for id, source in self._sources.items():
            found = await source.check()
            problems += [f"account {id}: {problem}" for problem in found.problems]
            for name, obstacle in found.objects.items():
                if name not in OF_THE_PLATFORM and not objects.get(name):
                    objects[name] = f"account {id}: {obstacle}" if obstacle else ""
        return CheckResult(not problems, objects, problems)

    def account(self) -> dict[str, Any]:
        """Return the usage of the budget, which all accounts share, by this process."""
        return self._any.account()

    async def schema(self, object: str) -> dict[str, Any] | None:
        """Return a JSON Schema of an object's rows; see :meth:`StripeSource.schema`."""
        return await self._any.schema(object)

    def hint(self, event_type: str) -> None:
        """Read the feeds of all accounts at once; see :meth:`StripeSource.hint`."""
        for source in self._sources.values():
            source.hint(event_type)

    def webhooks(self, hint: Callable[[str], object], path: str) -> Starlette:
        """Return the ASGI application that receives Stripe's webhooks; see :class:`dimesh.spi.cdc.WebhookSource`."""
        return self._any.webhooks(hint, path)

    def relist_interval(self, object: str) -> float | None:
        """Return the interval at which all rows are listed again; see :class:`dimesh.spi.cdc.Relists`."""
        return self._any.relist_interval(object)

    # -- streams -----------------------------------------------------------------------------------

    async def position(self, object: str) -> bytes:
        """Return the current positions; see the SPI."""
        if object in OF_THE_PLATFORM:
            raise SourceObjectError(
                f"{object} has rows in the platform's account only: capture it with a source without the option accounts"
            )
        return POSITIONS.encode(
            AccountsPosition({id: await source.position(object) for id, source in self._sources.items()})
        )

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        """Yield the changes of all accounts after a position, as they come."""
        at = dict(POSITIONS.decode(position, object).accounts)
        for id in [id for id in at if id not in self._sources]:
            del at[id]
        for id, source in self._sources.items():
            if id not in at:
                at[id] = await source.position(object)
                gap = Gap(object, f"the account {id} is new: its rows must be read")
                yield ChangeBatch([gap], POSITIONS.encode(AccountsPosition(at)))
        batches: asyncio.Queue[tuple[str, ChangeBatch] | BaseException] = asyncio.Queue(1)
        outer, everyone = contact.listener.get(), list[Delivered]()
        listeners = {id: Delivered(outer, everyone) for id in self._sources} if outer is not None else {}
        tasks = [
            asyncio.create_task(
                self._follow(id, object, at[id], batches, listeners.get(id)), name=f"stripe-{id}-{object}"
            )
            for id in self._sources
        ]
        try:
            while True:
                found = await batches.get()
                if isinstance(found, BaseException):
                    raise found
                id, batch = found
                at[id] = batch.position
                items = [_of(id, item) if isinstance(item, Change) else item for item in batch.items]
                yield replace(batch, items=items, position=POSITIONS.encode(AccountsPosition(at)))
                if id in listeners:
                    listeners[id].taken += 1
                    listeners[id].announce()
        finally:
            await end_tasks(tasks)

    async def _follow(
        self,
        id: str,
        object: str,
        position: bytes,
        batches: asyncio.Queue[tuple[str, ChangeBatch] | BaseException],
        listener: Delivered | None,
    ) -> None:
        """Pass the batches of one account on. An account that the key may not read any longer does not stop the others."""
        source, refused = self._sources[id], False
        if listener is not None:
            contact.listener.set(listener)

        async def hand_on(batch: ChangeBatch) -> None:
            if listener is not None:
                listener.handed += 1
            await batches.put((id, batch))

        while True:
            try:
                async with aclosing(cast(Any, source.stream(object, position))) as stream:
                    async for batch in stream:
                        position, refused = batch.position, False
                        await hand_on(batch)
            except SourceObjectError as error:
                if not refused:
                    log.warning("%s of account %s is tried again every minute: %s", object, id, error)
                refused = True
                await self._clock.sleep(REFUSED_PAUSE)
            except SourcePositionLostError as error:
                position = await source.position(object)
                gap = Gap(object, f"account {id}: {error}")
                await hand_on(ChangeBatch([gap], position))
            except Exception as error:
                await batches.put(error)
                return

    # -- rows --------------------------------------------------------------------------------------

    async def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        """Yield the current rows of one account after another; see the SPI."""
        begin = SNAPSHOTS.decode(resume, object) if resume else None
        for id, source in self._sources.items():
            if begin is not None and id < begin.account:
                continue
            within = begin.resume if begin is not None and id == begin.account else None
            async for batch in source.snapshot(object, within):
                yield replace(
                    batch,
                    items=[_of(id, item) for item in batch.items if isinstance(item, Change)],
                    position=SNAPSHOTS.encode(AccountsSnapshot(id, batch.position)),
                )

    async def read_rows(self, object: str, keys: Sequence[Mapping[str, Any]]) -> Sequence[Change | None]:
        """Return the current rows; see :class:`dimesh.spi.cdc.ReadsRows`. Of an account that is not named, nothing is known."""
        found: dict[int, Change | None] = dict.fromkeys(range(len(keys)))
        for id, source in self._sources.items():
            numbers = [n for n, key in enumerate(keys) if key["account"] == id]
            own = [{name: value for name, value in keys[n].items() if name != "account"} for n in numbers]
            for n, change in zip(numbers, await source.read_rows(object, own), strict=True):
                found[n] = _of(id, change) if change is not None else None
        return list(found.values())

    @property
    def feed_lag(self) -> float:
        """See :attr:`StripeSource.feed_lag`."""
        return self._any.feed_lag

    async def rows_after(
        self, object: str, key: Mapping[str, Any] | None, limit: int
    ) -> Sequence[Change] | None:
        """Return rows of one account after another; see :class:`dimesh.spi.cdc.SamplesRows`."""
        found: list[Change] = []
        begin = str(key["account"]) if key is not None else ""
        after = {name: value for name, value in key.items() if name != "account"} if key is not None else None
        for id, source in self._sources.items():
            if id < begin:
                continue
            page = await source.rows_after(object, after if id == begin else None, limit - len(found))
            if page is None:
                return None
            found += [_of(id, change) for change in page]
            if len(found) >= limit:
                break
        return found if not begin or begin in self._sources else None

    async def not_current(self, object: str) -> Mapping[str, str]:
        """Return the fields that events leave out; see :class:`dimesh.spi.cdc.LeavesOutFields`."""
        return await self._any.not_current(object)

    async def acknowledge(self, object: str, position: bytes) -> None:
        """Do nothing: Stripe has nothing to clean up."""


def make_source(options: StripeOptions, clock: Clock) -> StripeSource | ConnectedAccounts:
    """Return the source that the options describe."""
    return ConnectedAccounts(options, clock) if options.accounts else StripeSource(options, clock)


def _of(account: str, change: Change) -> Change:
    """Return a change as one of a row of an account: two accounts may have rows with the same id."""
    return replace(
        change,
        identity=f"{account}:{change.identity}",
        primary_key={"account": account, **change.primary_key},
        metadata={**change.metadata, "account": account},
    )
