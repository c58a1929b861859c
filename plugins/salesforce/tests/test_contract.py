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
    """A store of keys and values as accounts."""

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

    async def skew(self, seconds: float) -> None:
        self._org.skew += seconds

    async def hide(self, key: str) -> None:
        self._org.unseen[self._ids[key]] = float("inf")

    derived_field = "Score__c"

    async def derive(self, key: str, value: str) -> None:
        self._org.derive("Account", self._ids[key], {"Score__c": value})

    def derived(self, row: Any) -> str | None:
        return row.get("Score__c")

    silent_object = "AccountFeed"

    async def put_silently(self, key: str, value: str) -> None:
        if key in self._ids:
            self._org.update("AccountFeed", self._ids[key], {"Body": value})
        else:
            self._ids[key] = self._org.create("AccountFeed", {"Body": value})

    def silent_value(self, row: Any) -> str:
        return str(row["Body"])

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
    long = {
        "test_what_was_lost_is_repaired",
        "test_a_row_that_a_list_leaves_out",
        "test_a_stream_resumes_anywhere",
    }

    @pytest.fixture
    def new_source(self, new_source: Callable[..., SalesforceSource]) -> NewSource:
        return lambda: new_source(poll=0.1)


@pytest.mark.slow
class TestBulk(_Salesforce):
    @pytest.fixture
    def new_source(self, new_source: Callable[..., SalesforceSource]) -> NewSource:
        return lambda: new_source(bulk_above=0, page=500, poll=0.1)
