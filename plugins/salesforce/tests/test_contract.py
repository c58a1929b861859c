"""The contract kit, on accounts of the sandbox, read page by page and by the Bulk API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dimesh.capabilities import Capability
from dimesh.spi.cdc import Change
from dimesh_contracts.cdc import CDCSourceContract, NewSource, System
from dimesh_salesforce.sandbox import SalesforceSandbox
from dimesh_salesforce.source import SalesforceSource


class Accounts:
    """Keys and values as accounts."""

    object = "Account"

    def __init__(self, sandbox: SalesforceSandbox) -> None:
        self._sandbox = sandbox
        self._org = sandbox.org
        self._ids: dict[str, str] = {}
        self._keys: dict[str, str] = {}

    async def put(self, key: str, value: str) -> None:
        if key in self._ids:
            self._org.update("Account", self._ids[key], {"Name": value})
        else:
            self._ids[key] = self._org.create("Account", {"Name": value})
            self._keys[self._ids[key]] = key

    async def delete(self, key: str) -> None:
        self._org.delete("Account", self._ids.pop(key))

    async def lose_history(self) -> None:
        self._org.skew += 73 * 3_600

    async def expire_credentials(self) -> None:
        self._sandbox.tokens.locked = True
        self._sandbox.expire_tokens()

    async def renew_credentials(self) -> None:
        self._sandbox.tokens.locked = False

    def key(self, change: Change) -> str:
        return self._keys[change.primary_key["Id"]]

    def value(self, row: Any) -> str:
        return str(row["Name"])


class _Salesforce(CDCSourceContract):
    offers = {Capability.SNAPSHOT, Capability.STREAM, Capability.DELETES, Capability.DESCRIBED}

    @pytest.fixture
    def system(self, sandbox: SalesforceSandbox) -> System:
        return Accounts(sandbox)


class TestSalesforce(_Salesforce):
    @pytest.fixture
    def new_source(self, new_source: Callable[..., SalesforceSource]) -> NewSource:
        return new_source


class TestBulk(_Salesforce):
    @pytest.fixture
    def new_source(self, new_source: Callable[..., SalesforceSource]) -> NewSource:
        return lambda: new_source(bulk_above=0, page=500)
