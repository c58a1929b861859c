"""Snapshots, with the faults that occur when many rows are read over a REST API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from dimesh.errors import CredentialsError, SourceObjectError, SourceUnavailableError
from dimesh.spi.cdc import Change, ChangeBatch, Gap
from dimesh_contracts.waiting import deadline
from dimesh_salesforce.sandbox import SalesforceSandbox
from dimesh_salesforce.source import SalesforceSource

NewSource = Callable[..., SalesforceSource]


@pytest.fixture
async def source(new_source: NewSource) -> AsyncIterator[SalesforceSource]:
    made = new_source(page=100, retry_for=10.0)
    await made.open()
    yield made
    await made.close()


async def rows(
    source: SalesforceSource, object: str = "Account", resume: bytes | None = None
) -> list[Change]:
    found: list[Change] = []
    async with deadline():
        async for batch in source.snapshot(object, resume):
            found += [item for item in batch.items if isinstance(item, Change)]
    return found


async def told(stream: AsyncIterator[ChangeBatch]) -> ChangeBatch:
    """Return the next batch that is not empty."""
    async with deadline():
        while True:
            batch = await anext(stream)
            if batch.items:
                return batch


def whole(sandbox: SalesforceSandbox, found: list[Change]) -> bool:
    return [c.after for c in found] == [
        {k: v for k, v in row.items() if k not in ("SystemModstamp", "IsDeleted")}
        for row in sandbox.org.rows("Account")
    ]


@pytest.mark.parametrize("bulk", [False, True])
async def test_rows_are_the_same_however_they_are_read(
    sandbox: SalesforceSandbox, new_source: NewSource, bulk: bool
) -> None:
    """A query, a file and an event have the same names, types and times."""
    source = new_source(bulk_above=0 if bulk else 1_000)
    await source.open()
    stream = source.stream("Account", await source.position("Account"))
    given = {
        "Name": 'Ada, "Ltd"\nBerlin', "AnnualRevenue": 1.5, "NumberOfEmployees": 3, "Active__c": True,
        "Founded__c": "1999-12-31", "BillingStreet": "1 Way", "BillingLatitude": 52.5, "Site__Longitude__s": 13.4,
    }  # fmt: skip
    sandbox.org.create("Account", given)
    (snapshot,) = await rows(source)
    async with deadline():
        while not (batch := await anext(stream)).items:
            pass
    (told,) = batch.items
    assert isinstance(told, Change)
    assert snapshot.after is not None
    assert told.after is not None
    assert {k: v for k, v in snapshot.after.items() if k not in told.not_current} == told.after
    assert given.items() <= snapshot.after.items()
    schema: Any = await source.schema("Account")
    assert set(schema["properties"]) == set(snapshot.after)
    await stream.aclose()  # type: ignore[attr-defined]
    await source.close()


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "error", "status": 500, "times": 3},
        {"kind": "error", "status": 503, "times": 3},
        {"kind": "concurrent_limit", "times": 3},
        {"kind": "malformed", "times": 2},
        {"kind": "truncated", "times": 2},
        {"kind": "reset", "times": 2},
        {"kind": "unauthorized", "times": 1},
        {"kind": "slow", "seconds": 0.1, "times": 3},
        {"kind": "query_timeout", "path": "/services/data/v66.0/query", "times": 1},
    ],
    ids=lambda fault: fault["kind"],
)
@pytest.mark.parametrize("bulk", [False, True], ids=["pages", "bulk"])
@pytest.mark.slow
async def test_temporary_failures_are_retried(
    sandbox: SalesforceSandbox, new_source: NewSource, fault: dict[str, Any], bulk: bool
) -> None:
    source = new_source(page=100, retry_for=10.0, bulk_above=0 if bulk else 1_000)
    await source.open()
    sandbox.org.seed("Account", 450)
    found: list[Change] = []
    async with deadline():
        n = 0
        async for batch in source.snapshot("Account", None):
            found += [item for item in batch.items if isinstance(item, Change)]
            n += 1
            if n == 2:
                sandbox.faults.plan(**fault)
    assert whole(sandbox, found)
    await source.close()


@pytest.mark.slow
async def test_a_request_that_hangs(sandbox: SalesforceSandbox, new_source: NewSource) -> None:
    source = new_source(timeout=0.3, retry_for=10.0)
    await source.open()
    sandbox.org.seed("Account", 10)
    sandbox.faults.plan(kind="hang", path="/services/data/v66.0/query", times=2)
    assert whole(sandbox, await rows(source))
    await source.close()


async def test_tokens_that_expire_between_pages(sandbox: SalesforceSandbox, source: SalesforceSource) -> None:
    sandbox.org.seed("Account", 450)
    found: list[Change] = []
    async for batch in source.snapshot("Account", None):
        found += [item for item in batch.items if isinstance(item, Change)]
        sandbox.expire_tokens()
    assert whole(sandbox, found)
    assert sandbox.tokens.issued > 4


async def test_a_query_that_takes_too_long_asks_for_less(
    sandbox: SalesforceSandbox, source: SalesforceSource
) -> None:
    sandbox.org.seed("Account", 300)
    sandbox.faults.plan(kind="query_timeout", path="/services/data/v66.0/query", times=3)
    assert whole(sandbox, await rows(source))


async def test_wide_rows_come_in_smaller_pages(sandbox: SalesforceSandbox, source: SalesforceSource) -> None:
    sandbox.org.seed("Account", 250)
    sandbox.rest.page = 30
    assert whole(sandbox, await rows(source))


async def test_the_days_requests_are_used_up(sandbox: SalesforceSandbox, source: SalesforceSource) -> None:
    sandbox.org.seed("Account", 10)
    sandbox.faults.plan(kind="daily_limit", times=-1)
    with pytest.raises(SourceUnavailableError, match="of the day") as failed:
        await rows(source)
    assert failed.value.retry_after >= 600
    assert len(sandbox.requests) == 1  # few requests were sent


async def test_a_snapshot_leaves_requests_to_others(
    sandbox: SalesforceSandbox, source: SalesforceSource
) -> None:
    """The snapshot leaves a tenth of the requests, so that a stream can still fetch rows."""
    sandbox.org.seed("Account", 1_000)
    sandbox.limit = 100
    sandbox.used = 84
    with pytest.raises(SourceUnavailableError, match="leaves the rest to others") as failed:
        await rows(source)
    assert failed.value.retry_after >= 600
    assert sandbox.used <= 91
    await source.position("Account")
    assert source.account()["api_requests_of_a_day"] == 100


@pytest.mark.slow
async def test_a_forgotten_job_is_replaced(sandbox: SalesforceSandbox, new_source: NewSource) -> None:
    source = new_source(bulk_above=0, page=100)
    await source.open()
    sandbox.org.seed("Account", 450)
    seen = [batch.position async for batch in source.snapshot("Account", None)]
    sandbox.rest.forget_jobs()
    assert whole(sandbox, await rows(source, resume=seen[2]))
    await source.close()


@pytest.mark.slow
async def test_a_failed_job_is_replaced(sandbox: SalesforceSandbox, new_source: NewSource) -> None:
    source = new_source(bulk_above=0, page=100)
    await source.open()
    sandbox.org.seed("Account", 450)
    seen = [batch.position async for batch in source.snapshot("Account", None)]
    sandbox.rest.fail_jobs()
    pages = source.snapshot("Account", seen[2])
    last = (await anext(pages)).position
    with pytest.raises(SourceUnavailableError, match="Failed"):
        await anext(pages)
    assert whole(sandbox, await rows(source, resume=last))
    await source.close()


@pytest.mark.parametrize("bulk", [False, True], ids=["pages", "bulk"])
@pytest.mark.slow
async def test_answers_that_lack_rows_are_not_taken_for_all(
    sandbox: SalesforceSandbox, new_source: NewSource, bulk: bool
) -> None:
    source = new_source(page=100, bulk_above=0 if bulk else 1_000)
    await source.open()
    sandbox.org.seed("Account", 450)
    found: list[Change] = []
    last = None
    pages = source.snapshot("Account", None)
    while len(found) < 200:
        batch = await anext(pages)
        found += [item for item in batch.items if isinstance(item, Change)]
        last = batch.position
    sandbox.faults.plan(kind="short", path="/services/data/v66.0/")
    with pytest.raises(SourceUnavailableError, match="rows"):
        await anext(pages)
    assert whole(sandbox, found + await rows(source, resume=last))
    await source.close()


async def test_rows_that_a_gap_is_about_and_an_answer_lacks_are_not_deleted(
    sandbox: SalesforceSandbox, source: SalesforceSource
) -> None:
    ids = [sandbox.org.create("Account", {"Name": f"{n}"}) for n in range(4)]
    position = await source.position("Account")
    sandbox.org.gap("Account", ids)
    sandbox.faults.plan(kind="short", path="/services/data/v66.0/query")
    stream = source.stream("Account", position)
    with pytest.raises(SourceUnavailableError, match="2 of 4 rows"):
        await told(stream)
    stream = source.stream("Account", position)
    (gap,) = (await told(stream)).items
    assert isinstance(gap, Gap)
    assert [change.after is not None for change in gap.repair] == [True] * 4
    await stream.aclose()  # type: ignore[attr-defined]


async def test_refusals_lower_the_concurrency(sandbox: SalesforceSandbox, source: SalesforceSource) -> None:
    sandbox.org.seed("Account", 10)
    sandbox.faults.plan(kind="concurrent_limit", times=2)
    most = source.account()["requests_at_once"]
    await rows(source)
    assert source.account()["requests_at_once"] < most
    assert source.account()["requests_refused"] == 2


async def test_rows_that_are_created_meanwhile_do_not_prolong_a_snapshot(
    sandbox: SalesforceSandbox, source: SalesforceSource
) -> None:
    sandbox.org.seed("Account", 300)
    found: list[Change] = []
    async with deadline():
        async for batch in source.snapshot("Account", None):
            found += [item for item in batch.items if isinstance(item, Change)]
            for _ in range(200):
                sandbox.org.create("Account", {"Name": "later"})
    assert len(found) == 300


# -- credentials -----------------------------------------------------------------------------------


async def test_a_key_signs_for_a_token(
    sandbox: SalesforceSandbox, new_source: NewSource, tmp_path: Any
) -> None:
    key = tmp_path / "key.pem"
    key.write_text(sandbox.private_key)
    source = new_source(client_secret=None, username="ada@sandbox.example", private_key_file=str(key))
    await source.open()
    sandbox.org.seed("Account", 3)
    assert whole(sandbox, await rows(source))
    await source.close()


async def test_a_refresh_token(sandbox: SalesforceSandbox, new_source: NewSource) -> None:
    source = new_source(client_secret=None, refresh_token="5Aep861sandbox")
    await source.open()
    await source.close()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"client_secret": "wrong-secret"}, "Check client_id and client_secret"),
        ({"client_id": "wrong-id"}, "client identifier"),
        ({"client_secret": None, "refresh_token": "wrong-token"}, "expired access/refresh token"),
        (
            {"client_id": None, "client_secret": None, "access_token": "wrong-token"},
            "refused the access token",
        ),
        ({"client_secret": None, "username": "eve@x.example", "private_key": "KEY"}, "Pre-authorise"),
        ({"client_secret": None, "username": "ada@sandbox.example", "private_key": "no-key"}, "PEM"),
        (
            {
                "client_secret": None,
                "username": "ada@sandbox.example",
                "private_key": "KEY",
                "audience": "https://x.y",
            },
            "audience",
        ),
    ],
)
async def test_credentials_that_are_refused(
    sandbox: SalesforceSandbox, new_source: NewSource, wrong: dict[str, Any], said: str
) -> None:
    given = {k: sandbox.private_key if v == "KEY" else v for k, v in wrong.items()}
    source = new_source(**given)
    with pytest.raises(CredentialsError, match=said) as failed:
        await source.open()
    for secret in ("wrong-secret", "wrong-token", "no-key"):
        assert secret not in str(failed.value)
        assert secret not in repr(source.options)
    await source.close()


async def test_a_missing_answer_is_not_a_refusal(sandbox: SalesforceSandbox, new_source: NewSource) -> None:
    sandbox.faults.plan(kind="error", path="/services/oauth2/", status=503)
    source = new_source()
    with pytest.raises(SourceUnavailableError):
        await source.open()
    source = new_source(instance_url="http://127.0.0.1:9")
    with pytest.raises(SourceUnavailableError):
        await source.open()


async def test_one_renewal_serves_all(sandbox: SalesforceSandbox, source: SalesforceSource) -> None:
    sandbox.org.seed("Account", 10)
    sandbox.expire_tokens()
    issued = sandbox.tokens.issued
    await asyncio.gather(*(rows(source) for _ in range(8)))
    assert sandbox.tokens.issued == issued + 1


async def test_an_object_that_may_not_be_read(sandbox: SalesforceSandbox, source: SalesforceSource) -> None:
    sandbox.org.forbidden.add("Account")
    with pytest.raises(SourceObjectError, match="View All Records on Account"):
        await rows(source)
