"""The source of the SPI: NetSuite through SuiteQL."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

from dimesh.capabilities import Capabilities, Capability
from dimesh.clock import Clock
from dimesh.sourcekit.budget import Priority
from dimesh.sourcekit.wakeups import WakeUps
from dimesh.spi.cdc import Change, ChangeBatch, CheckResult
from dimesh_netsuite.checks import Checks
from dimesh_netsuite.client import Client
from dimesh_netsuite.columns import ColumnFinder, schema_of
from dimesh_netsuite.deletes import Deletes
from dimesh_netsuite.lines import FIELD, LINE, Lines
from dimesh_netsuite.lists import Lists
from dimesh_netsuite.notes import Notes
from dimesh_netsuite.options import NetSuiteOptions
from dimesh_netsuite.polling import Polling
from dimesh_netsuite.reader import Reader
from dimesh_netsuite.records import Table, table_of
from dimesh_netsuite.timezone import AccountClock

log = logging.getLogger("dimesh.cdc")

TBA_ENDS = (
    "token-based authentication is the legacy form of credentials: from release 2027.1 on, NetSuite creates no new "
    "integrations with it. "
    "Move to OAuth 2.0 client credentials: client_id, certificate_id and private_key"
)


class NetSuiteSource:
    """Reads one account; see :class:`dimesh.spi.cdc.CDCSource`.

    Args:
        options: the options.
        clock: time.
    """

    system = "netsuite"
    capabilities = Capabilities(
        Capability.SNAPSHOT,
        Capability.STREAM,
        Capability.DELETES,
        Capability.DESCRIBED,
        notes={
            Capability.STREAM: "NetSuite keeps rows and no changes: what changed twice between two polls is one change",
            Capability.DELETES: "recorded by NetSuite for most record types; lines and other types by listing all rows again",
        },
    )
    changed_at = "lastmodifieddate"

    def __init__(self, options: NetSuiteOptions, clock: Clock) -> None:
        self.options = options
        self.read_lag = options.read_lag
        self._clock = clock
        self._client = Client(options, clock)
        self._columns = ColumnFinder(self._client, clock)
        self._reader = Reader(options, self._client, self._columns)
        self._deletes = Deletes(options, self._client)
        self._notes = Notes(options, self._client)
        self._lines = Lines(options, self._reader)
        self._lists = Lists(self._client, self._reader, self._deletes, self._lines)
        self._account_clock = AccountClock(self._client)
        self._wake_ups = WakeUps(clock)

    async def open(self) -> None:
        """Connect, and check the credentials with a query that any role may run."""
        if self.options.flow() == "tba":
            log.warning("NetSuite: %s", TBA_ENDS)
        await self._client.open()
        try:
            await self._account_clock.probe(Priority.CHECK)
        except BaseException:
            await self._client.close()
            raise

    async def close(self) -> None:
        """Close the connections; may be called twice."""
        await self._client.close()

    async def check(self) -> CheckResult:
        """Check what the role may read, and name missing permissions."""
        return await Checks(self.options, self._client, self._deletes, self._notes, self._account_clock).run()

    def account(self) -> dict[str, Any]:
        """Return the usage of the account's budget by this process."""
        budget = self._client.budget
        return {
            "requests": budget.requests,
            "requests_refused": budget.refused,
            "requests_a_second": round(budget.rate, 2),
            "requests_at_once": budget.concurrency,
            "budget_used": round(budget.used, 4),
        }

    async def schema(self, object: str) -> Mapping[str, Any] | None:
        """Return a JSON Schema of an object's rows, as the role sees them."""
        table = table_of(object)
        self._columns.forget(table)  # a field that was added since then is captured from now on
        found = schema_of(await self._columns.of(table))
        if self._lines.wanted(table):
            self._columns.forget(LINE)
            line = schema_of(await self._columns.of(LINE))
            found["properties"][FIELD] = {"type": "array", "items": line}
        return found

    def hint(self, kind: str) -> None:
        """Poll an object at once, since a row of this table changed; an empty name stands for all objects."""
        self._wake_ups.wake(lambda name: not kind or name.lower() == kind.lower())

    # -- the stream --------------------------------------------------------------------------------

    async def position(self, object: str) -> bytes:
        """Return the current position; see the SPI."""
        return await self._polling(table_of(object)).position()

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        """Yield the changes after a position; see the SPI."""
        batches = self._polling(table_of(object)).stream(position, self._wake_ups.of(object))
        async with aclosing(cast(Any, batches)) as opened:
            async for batch in opened:
                yield batch

    def _polling(self, table: Table) -> Polling:
        return Polling(
            table,
            self.options,
            self._clock,
            self._client,
            self._reader,
            self._deletes,
            self._notes,
            self._lines,
            self._account_clock,
        )

    async def acknowledge(self, object: str, position: bytes) -> None:
        """Do nothing: NetSuite has nothing to clean up."""

    # -- rows --------------------------------------------------------------------------------------

    async def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        """Yield the current rows; see the SPI."""
        async for batch in self._lists.snapshot(table_of(object), resume):
            yield batch

    async def read_rows(self, object: str, keys: Sequence[Mapping[str, Any]]) -> Sequence[Change | None]:
        """Return the current rows; see :class:`dimesh.spi.cdc.ReadsRows`."""
        return await self._lists.read_rows(table_of(object), keys)

    def relist_interval(self, object: str) -> float | None:
        """Return the interval at which all rows are listed again; see :class:`dimesh.spi.cdc.Relists`."""
        table_of(object)
        return self.options.refresh or None

    @property
    def feed_lag(self) -> float:
        """The time until what became visible late was read again."""
        return self.options.overlap + self.options.reread + self.options.poll

    async def rows_after(
        self, object: str, key: Mapping[str, Any] | None, limit: int
    ) -> Sequence[Change] | None:
        """Return rows in the order of their keys; see :class:`dimesh.spi.cdc.SamplesRows`."""
        return await self._lists.after(table_of(object), key, limit)
