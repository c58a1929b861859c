"""The contract kit, on customers of the sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dimesh.capabilities import Capability
from dimesh.spi.cdc import Change
from dimesh_contracts.cdc import CDCSourceContract, NewSource, System
from dimesh_stripe.sandbox import StripeSandbox
from dimesh_stripe.source import StripeSource

_MANY = 1_000_000


class Customers:
    """A store of keys and values as customers."""

    object = "customer"

    def __init__(self, sandbox: StripeSandbox) -> None:
        self._sandbox = sandbox
        self._account = sandbox.account
        self._ids: dict[str, str] = {}

    async def put(self, key: str, value: str) -> None:
        if key in self._ids:
            self._account.update("customer", self._ids[key], {"name": value})
        else:
            row = self._account.create("customer", {"name": value, "metadata": {"key": key}})
            self._ids[key] = row["id"]

    async def delete(self, key: str) -> None:
        self._account.delete("customer", self._ids.pop(key))

    async def lose_history(self) -> None:
        self._account.skew += 31 * 86_400

    async def expire_credentials(self) -> None:
        self._sandbox.faults.plan("unauthorized", times=-1)

    async def renew_credentials(self) -> None:
        self._sandbox.faults.clear()

    async def refuse_requests(self, seconds: float) -> None:
        self._refuses = self._sandbox.faults.plan("rate_limit", times=_MANY, retry_after=seconds)
        asyncio.get_running_loop().call_later(seconds, self._sandbox.faults.clear)

    async def skew(self, seconds: float) -> None:
        self._account.skew += seconds

    async def hide(self, key: str) -> None:
        self._account.unlisted.add(self._ids[key])

    silent_object = "payment_intent"

    async def put_silently(self, key: str, value: str) -> None:
        fields = {"metadata": {"key": key, "value": value}}
        if key in self._ids:
            self._account.update("payment_intent", self._ids[key], fields)
        else:
            made = self._account.create("payment_intent", {"status": "processing", **fields})
            self._ids[key] = made["id"]

    def silent_value(self, row: Any) -> str:
        return str(row["metadata"]["value"])

    async def announce(self) -> None:
        # Of the form of invoice.upcoming: an object without id.
        self._account.log("customer.updated", {"object": {"object": "customer", "name": "nobody"}})

    async def answer_by_proxy(self, status: int, times: int) -> None:
        self._sandbox.faults.plan("proxy", status=status, times=times)

    def refused(self) -> int:
        return _MANY - self._refuses.times

    def key(self, change: Change) -> str:
        row: Any = change.after or change.before
        return str(row["metadata"]["key"])

    def value(self, row: Any) -> str:
        return str(row["name"])


class Invoices(Customers):
    """A store of keys and values as invoices, which have lines."""

    object = "invoice"

    async def put(self, key: str, value: str) -> None:
        await self.put_invoice(key, {"description": value})

    async def put_entries(self, key: str, count: int) -> None:
        lines = [{"id": f"il_{n}", "object": "line_item"} for n in range(count)]
        await self.put_invoice(key, {"lines": lines})

    async def put_invoice(self, key: str, fields: dict[str, Any]) -> None:
        if key in self._ids:
            self._account.update("invoice", self._ids[key], fields)
        else:
            made = self._account.create("invoice", {**fields, "metadata": {"key": key}})
            self._ids[key] = made["id"]

    def entries(self, row: Any) -> int:
        return len(row["lines"]["data"])

    async def delete(self, key: str) -> None:
        self._account.delete("invoice", self._ids.pop(key))

    async def announce(self) -> None:
        self._account.log("invoice.upcoming", {"object": {"object": "invoice"}})

    def value(self, row: Any) -> str:
        return str(row["description"])


class TestStripe(CDCSourceContract):
    long = {
        "test_a_snapshot_while_rows_come_and_go",
        "test_a_snapshot_resumes_anywhere",
        "test_what_was_lost_is_repaired",
        "test_a_proxy_that_answers_instead",
        "test_a_row_that_a_list_leaves_out",
    }
    offers = {
        Capability.SNAPSHOT,
        Capability.STREAM,
        Capability.DELETES,
        Capability.BEFORE_IMAGE,
        Capability.DESCRIBED,
    }

    @pytest.fixture
    def system(self, sandbox: StripeSandbox) -> System:
        return Customers(sandbox)

    @pytest.fixture
    def new_source(self, new_source: Callable[..., StripeSource]) -> NewSource:
        return lambda: new_source(refresh=0.1)


@pytest.mark.slow
class TestInvoices(TestStripe):
    @pytest.fixture
    def system(self, sandbox: StripeSandbox) -> System:
        return Invoices(sandbox)
