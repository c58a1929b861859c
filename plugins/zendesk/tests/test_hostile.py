"""Answers that a healthy Zendesk does not give, and addresses that are not Zendesk's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dimesh.errors import SourceUnavailableError
from dimesh.spi.cdc import Change, Operation
from dimesh_zendesk.catalogue import RESOURCES
from dimesh_zendesk.descriptions import described
from dimesh_zendesk.sandbox import ZendeskSandbox
from dimesh_zendesk.sandbox.account import Account
from dimesh_zendesk.source import ZendeskSource

New = Callable[..., ZendeskSource]


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "error", "status": 503},
        {"kind": "error", "status": 409},
        {"kind": "error", "status": 520},
        {"kind": "error", "status": 524},
        {"kind": "rate_limit", "retry_after": 0.1},
        {"kind": "truncated"},
        {"kind": "malformed"},
        {"kind": "reset"},
        {"kind": "proxy", "status": 200},
        {"kind": "proxy", "status": 403},
        {"kind": "proxy", "status": 404},
        {"kind": "hang"},
    ],
    ids=lambda fault: f"{fault['kind']}-{fault.get('status', '')}",
)
@pytest.mark.parametrize("object", ["tickets", "organizations", "satisfaction_ratings"])
async def test_temporary_failures_lose_nothing(
    sandbox: ZendeskSandbox, new_source: New, read: Callable[..., Any], object: str, fault: dict[str, Any]
) -> None:
    account = sandbox.account
    source = new_source(timeout=0.3)
    await source.open()
    account.advance(1_000)
    position = await source.position(object)
    sandbox.faults.plan(path="/api/v2/", times=2, **fault)
    id = account.create(object, {})["id"]
    account.advance(61)
    found, _ = await read(source, object, position, lambda item: isinstance(item, Change))
    assert [(c.operation, c.primary_key["id"]) for c in found] == [(Operation.INSERT, id)]


@pytest.mark.parametrize(
    "address", ["https://evil.example/api/v2/groups", "//evil.example/", "http://127.0.0.1:1/api/v2/groups"]
)
async def test_the_next_page_is_never_on_another_host(
    sandbox: ZendeskSandbox, new_source: New, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """A forged answer must not make us send the token to its author."""
    for n in range(150):
        sandbox.account.create("groups", {"name": f"g{n}"})
    ordinary = sandbox._paged

    def forged(*args: Any) -> Any:
        answer = ordinary(*args)
        answer["links"]["next"] = address
        return answer

    monkeypatch.setattr(sandbox, "_paged", forged)
    source = new_source()
    await source.open()
    pages = source.snapshot("groups", None)
    await anext(pages)
    with pytest.raises(SourceUnavailableError, match="outside"):
        await anext(pages)


@pytest.mark.parametrize("rows", [None, {}, "tickets", 3])
async def test_an_export_without_rows_in_it_is_not_an_empty_one(
    sandbox: ZendeskSandbox, new_source: New, monkeypatch: pytest.MonkeyPatch, rows: Any
) -> None:
    source = new_source(retry_for=0.0)
    await source.open()
    position = await source.position("tickets")
    monkeypatch.setattr(sandbox.exports, "cursor", lambda *_: {"tickets": rows, "end_of_stream": True})
    with pytest.raises(SourceUnavailableError, match="without the field tickets"):
        await anext(source.stream("tickets", position))


async def test_a_list_that_names_itself_as_the_next_page_ends(
    sandbox: ZendeskSandbox, new_source: New, snapshot: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.account.create("groups", {"name": "g"})
    ordinary = sandbox._paged
    own = f"{sandbox.url}/api/v2/groups?page[size]=100"

    def looping(*args: Any) -> Any:
        answer = ordinary(*args)
        answer["meta"]["has_more"], answer["links"]["next"] = True, own
        return answer

    monkeypatch.setattr(sandbox, "_paged", looping)
    source = new_source()
    await source.open()
    assert len(await snapshot(source, "groups")) <= 2


async def test_descriptions_fit_the_rows(
    sandbox: ZendeskSandbox, new_source: New, snapshot: Callable[..., Any]
) -> None:
    account: Account = sandbox.account
    ticket = account.create("tickets", {"subject": "a", "description": "d"})["id"]
    account.create("users", {"name": "u"})
    account.create("organizations", {"name": "o"})
    account.create("groups", {"name": "g"})
    account.create("macros", {"title": "m"})
    account.append("satisfaction_ratings", {"score": "good"})
    account.append("ticket_metric_events", {"ticket_id": ticket, "metric": "reply_time", "type": "measure"})
    account.advance(100)
    source = new_source()
    await source.open()
    for name in described():
        schema = await source.schema(name)
        assert schema is not None
        rows = await snapshot(source, name)
        assert rows, name
        for row in rows:
            Draft202012Validator(schema).validate(row)
    assert await source.schema("tags") is None
    assert set(described()) <= set(RESOURCES)
