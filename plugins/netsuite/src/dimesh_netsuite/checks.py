"""The check of an account: what the role may read, and which permissions it lacks."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Final

from dimesh.errors import CredentialsError, SourceObjectError, SourceUnavailableError
from dimesh.sourcekit.budget import Priority
from dimesh.spi.cdc import CheckResult
from dimesh_netsuite.client import CATALOG_PATH, LIMITS_PATH, Client, UnknownColumnError
from dimesh_netsuite.deletes import Deletes
from dimesh_netsuite.notes import Notes
from dimesh_netsuite.options import NetSuiteOptions
from dimesh_netsuite.records import TABLES, table_of
from dimesh_netsuite.suiteql import select
from dimesh_netsuite.timezone import AccountClock

log = logging.getLogger("dimesh.cdc")

PERMISSIONS: Final = {
    "transaction": "Find Transaction (Transactions), and the permission of each kind of transaction",
    "transactionline": "Find Transaction (Transactions), and the permission of each kind of transaction",
    "transactionaccountingline": "Find Transaction (Transactions), and the permission of each kind of transaction",
    "customer": "Customers (Lists)",
    "vendor": "Vendors (Lists)",
    "partner": "Partners (Lists)",
    "contact": "Contacts (Lists)",
    "employee": "Employees (Lists)",
    "job": "Projects (Lists)",
    "item": "Items (Lists)",
    "account": "Accounts (Lists)",
    "subsidiary": "Subsidiaries (Lists)",
    "department": "Departments (Lists)",
    "location": "Locations (Lists)",
    "classification": "Classes (Lists)",
    "currency": "Currency (Lists)",
    "accountingperiod": "Manage Accounting Periods (Setup)",
    "term": "Accounting Lists (Lists)",
    "pricelevel": "Accounting Lists (Lists)",
}
"""The permission that a role needs to read a table (pages *Role permissions* of NetSuite's help)."""
_SKEW: Final = 60.0
_CUSTOM: Final = re.compile(r"custom(record|list)_?\w+")
_MOST_CUSTOM: Final = 200


class Checks:
    """Checks an account."""

    def __init__(
        self, options: NetSuiteOptions, client: Client, deletes: Deletes, notes: Notes, clock: AccountClock
    ) -> None:
        self._options = options
        self._client = client
        self._deletes = deletes
        self._notes = notes
        self._clock = clock

    async def run(self) -> CheckResult:
        """Return what can be captured, and what to change where something cannot."""
        problems: list[str] = []
        try:
            moment = await self._clock.probe(Priority.CHECK)
            skew = abs(moment.now - self._client.time())
            if skew > _SKEW:
                problems.append(
                    f"the clocks of NetSuite's database and of its web server differ by {skew:.0f} s: set overlap to more "
                    "than that"
                )
        except (CredentialsError, SourceUnavailableError) as error:
            return CheckResult(False, {}, [str(error)])
        if problem := await self._limit():
            problems.append(problem)
        if self._options.deletes and (problem := await self._deletes.check()):
            problems.append(problem)
        if self._options.notes and (problem := await self._notes.check()):
            log.warning("NetSuite: %s", problem)
        names = [*TABLES, *await self._custom()]
        obstacles: list[str] = []
        for begin in range(0, len(names), self._options.concurrency):
            group = names[begin : begin + self._options.concurrency]
            obstacles += await asyncio.gather(*(self._obstacle(name) for name in group))
        return CheckResult(not problems, dict(zip(names, obstacles, strict=True)), problems)

    async def _limit(self) -> str:
        """Return why the option ``concurrency`` is too high; empty: it is not, or the account does not say its limit."""
        try:
            found = await self._client.get(LIMITS_PATH, Priority.CHECK, "the limits of the account")
        except (SourceObjectError, SourceUnavailableError):
            return ""
        limit = found.get("accountConcurrencyLimit")
        if not isinstance(limit, int) or self._options.concurrency < limit:
            return ""
        return (
            f"concurrency is {self._options.concurrency}, and the account answers {limit} requests at the same time, of all "
            "integrations together: set concurrency to less"
        )

    async def _obstacle(self, name: str) -> str:
        """Return why a table cannot be read; empty: it can."""
        table = table_of(name)
        query = f"{select([f't.{key}' for key in table.keys], table.name)} FETCH FIRST 1 ROWS ONLY"
        try:
            await self._client.query(query, Priority.CHECK, name)
        except (CredentialsError, SourceObjectError, SourceUnavailableError, UnknownColumnError) as error:
            needed = PERMISSIONS.get(name)
            if needed is None or not isinstance(error, SourceObjectError | UnknownColumnError):
                return str(error)
            return f"{error}. If the account uses this feature, add the permission {needed} to the role, level View"
        return ""

    async def _custom(self) -> list[str]:
        """Return the custom records and lists that the role sees in the catalogue of the record service."""
        try:
            found = await self._client.get(CATALOG_PATH, Priority.CHECK, "the metadata catalogue")
        except (SourceObjectError, SourceUnavailableError):
            return []
        items = found.get("items")
        names = [str(item.get("name", "")).lower() for item in (items if isinstance(items, list) else [])]
        return sorted(name for name in set(names) if _CUSTOM.fullmatch(name))[:_MOST_CUSTOM]
