"""The contract kit, on tickets of the sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dimesh.capabilities import Capability
from dimesh.spi.cdc import Change
from dimesh_contracts.cdc import CDCSourceContract, NewSource, System
from dimesh_zendesk.sandbox import ZendeskSandbox
from dimesh_zendesk.source import ZendeskSource

_MANY = 1_000_000
_SHOWN = 61.0
"""The seconds after which the export shows a change."""


class Tickets:
    """A store of keys and values as tickets. Time passes after each change, so that the export shows it."""

    object = "tickets"

    def __init__(self, sandbox: ZendeskSandbox) -> None:
        self._sandbox = sandbox
        self._account = sandbox.account
        self._ids: dict[str, int] = {}
        self._keys: dict[int, str] = {}

    async def put(self, key: str, value: str) -> None:
        if key in self._ids:
            self._account.update("tickets", self._ids[key], {"subject": value})
        else:
            row = self._account.create("tickets", {"subject": value})
            self._ids[key] = row["id"]
            self._keys[row["id"]] = key
        self._account.advance(_SHOWN)

    async def delete(self, key: str) -> None:
        self._account.delete("tickets", self._ids.pop(key))
        self._account.advance(_SHOWN)

    async def expire_credentials(self) -> None:
        self._sandbox.faults.plan("unauthorized", times=-1)

    async def renew_credentials(self) -> None:
        self._sandbox.faults.clear()

    async def refuse_requests(self, seconds: float) -> None:
        self._refuses = self._sandbox.faults.plan("rate_limit", times=_MANY, retry_after=seconds)
        asyncio.get_running_loop().call_later(seconds, self._sandbox.faults.clear)

    def refused(self) -> int:
        return _MANY - self._refuses.times

    async def skew(self, seconds: float) -> None:
        self._account.advance(seconds)

    silent_object = "macros"

    async def put_silently(self, key: str, value: str) -> None:
        if key in self._ids:
            self._account.change_silently("macros", self._ids[key], {"title": value})
        else:
            self._ids[key] = self._account.create("macros", {"title": value})["id"]

    def silent_value(self, row: Any) -> str:
        return str(row["title"])

    async def answer_by_proxy(self, status: int, times: int) -> None:
        self._sandbox.faults.plan("proxy", status=status, times=times)

    def key(self, change: Change) -> str:
        return self._keys[change.primary_key["id"]]

    def value(self, row: Any) -> str:
        return str(row["subject"])


class TestZendesk(CDCSourceContract):
    long = {"test_a_snapshot_while_rows_come_and_go", "test_a_stream_resumes_anywhere"}
    offers = {
        Capability.SNAPSHOT,
        Capability.STREAM,
        Capability.DELETES,
        Capability.BEFORE_IMAGE,
        Capability.DESCRIBED,
    }

    @pytest.fixture
    def system(self, sandbox: ZendeskSandbox) -> System:
        return Tickets(sandbox)

    @pytest.fixture
    def new_source(self, new_source: Callable[..., ZendeskSource]) -> NewSource:
        return new_source
