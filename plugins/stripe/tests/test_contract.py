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
    """Keys and values as customers."""

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

    def refused(self) -> int:
        return _MANY - self._refuses.times

    def key(self, change: Change) -> str:
        row: Any = change.after or change.before
        return str(row["metadata"]["key"])

    def value(self, row: Any) -> str:
        return str(row["name"])


class TestStripe(CDCSourceContract):
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
        return new_source
