"""The contract kit, on customers of the sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dimesh.capabilities import Capability
from dimesh.spi.cdc import Change
from dimesh_contracts.cdc import CDCSourceContract, NewSource, System
from dimesh_netsuite.sandbox import NetSuiteSandbox
from dimesh_netsuite.source import NetSuiteSource

_MANY = 1_000_000


class Customers:
    """A store of keys and values as customers."""

    object = "customer"
    only_rows = True

    def __init__(self, sandbox: NetSuiteSandbox) -> None:
        self._sandbox = sandbox
        self._account = sandbox.account
        self._ids: dict[str, int] = {}
        self._keys: dict[str, str] = {}

    async def put(self, key: str, value: str) -> None:
        if key in self._ids:
            self._account.update(self.object, self._ids[key], self._fields(key, value))
        else:
            self._ids[key] = id = self._account.create(self.object, self._fields(key, value))
            self._keys[str(id)] = key

    def _fields(self, key: str, value: str) -> dict[str, Any]:
        return {"entityid": key, "companyname": value}

    async def delete(self, key: str) -> None:
        self._account.delete(self.object, self._ids.pop(key))

    async def lose_history(self) -> None:
        self._account.skew += 31 * 86_400

    async def expire_credentials(self) -> None:
        self._sandbox.security.forget_tokens()
        self._sandbox.security.revoked = True

    async def renew_credentials(self) -> None:
        self._sandbox.security.revoked = False

    async def refuse_requests(self, seconds: float) -> None:
        self._refuses = self._sandbox.faults.plan("overload_429", times=_MANY, retry_after=seconds)
        asyncio.get_running_loop().call_later(seconds, self._sandbox.faults.clear)

    def refused(self) -> int:
        return _MANY - self._refuses.times

    async def skew(self, seconds: float) -> None:
        self._account.skew += seconds

    async def hide(self, key: str) -> None:
        self._account.hidden.add((self.object, self._ids[key]))

    silent_object = "customer"

    async def put_silently(self, key: str, value: str) -> None:
        if key in self._ids:
            self._account.update(self.object, self._ids[key], self._fields(key, value), silent=True)
        else:
            await self.put(key, value)

    def silent_value(self, row: Any) -> str:
        return self.value(row)

    async def answer_by_proxy(self, status: int, times: int) -> None:
        self._sandbox.faults.plan("proxy", status=status, times=times)

    def key(self, change: Change) -> str:
        return self._keys[str(change.primary_key["id"])]

    def value(self, row: Any) -> str:
        return str(row["companyname"])


class Transactions(Customers):
    """A store of keys and values as transactions, which have lines."""

    object = "transaction"
    silent_object = "transaction"

    def _fields(self, key: str, value: str) -> dict[str, Any]:
        return {"tranid": key, "memo": value, "type": "SalesOrd"}

    def value(self, row: Any) -> str:
        return str(row["memo"])


class TestNetSuite(CDCSourceContract):
    long = {
        "test_a_snapshot_while_rows_come_and_go",
        "test_a_snapshot_resumes_anywhere",
        "test_what_was_lost_is_repaired",
        "test_a_proxy_that_answers_instead",
        "test_a_row_that_a_list_leaves_out",
    }
    offers = {Capability.SNAPSHOT, Capability.STREAM, Capability.DELETES, Capability.DESCRIBED}

    @pytest.fixture
    def system(self, sandbox: NetSuiteSandbox) -> System:
        return Customers(sandbox)

    @pytest.fixture
    def new_source(self, new_source: Callable[..., NetSuiteSource]) -> NewSource:
        return lambda: new_source(refresh=0.1, page=100)


@pytest.mark.slow
class TestTransactions(TestNetSuite):
    @pytest.fixture
    def system(self, sandbox: NetSuiteSandbox) -> System:
        return Transactions(sandbox)


@pytest.mark.slow
class TestLegacyCredentials(TestNetSuite):
    @pytest.fixture
    def new_source(self, new_source: Callable[..., NetSuiteSource]) -> NewSource:
        return lambda: new_source(refresh=0.1, page=100, legacy=True)
