"""Credentials, the two budgets, and what `check` says."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dimesh import EventBusFactory, ZendeskCDCConnector
from dimesh.clock import SystemClock
from dimesh.errors import ConfigurationError, CredentialsError, SourceObjectError
from dimesh.sourcekit.tokens import TokenFile, Tokens
from dimesh_contracts.waiting import deadline, until
from dimesh_zendesk.sandbox import API_TOKEN, CLIENT_ID, CLIENT_SECRET, EMAIL, ZendeskSandbox
from dimesh_zendesk.source import ZendeskSource

New = Callable[..., ZendeskSource]
OAUTH = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}

CHILD = """
import asyncio, sys
from dimesh.clock import SystemClock
from dimesh.options import parse_options
from dimesh.sourcekit.budget import Priority
from dimesh_zendesk.options import ZendeskOptions
from dimesh_zendesk.source import ZendeskSource

async def main():
    given = dict(url=sys.argv[1], client_id="dimesh", client_secret="sandbox-secret", refresh_token=sys.argv[2],
                 token_file=sys.argv[3], rate=10_000, ledger="")
    source = ZendeskSource(parse_options(ZendeskOptions, given, "zendesk"), SystemClock())
    await source.open()
    for _ in range(int(sys.argv[4])):
        await source._client.get("users/me.json", {}, Priority.STREAM, "me")
        await asyncio.sleep(0.005)
    await source.close()

asyncio.run(main())
"""


async def test_client_credentials_are_renewed_when_they_expire(
    sandbox: ZendeskSandbox, new_source: New, snapshot: Callable[..., Any]
) -> None:
    source = new_source(**OAUTH)
    await source.open()
    assert sandbox.oauth.issued == 1
    sandbox.oauth.expire()  # revoked before its end
    await snapshot(source, "groups")
    assert sandbox.oauth.issued == 2
    sandbox.account.advance(1_790)  # by their clock only: Zendesk's answer tells
    await snapshot(source, "groups")
    sandbox.account.advance(20)
    await snapshot(source, "groups")
    assert sandbox.oauth.issued == 3


async def test_many_requests_at_once_renew_once(sandbox: ZendeskSandbox, new_source: New) -> None:
    source = new_source(**OAUTH)
    await source.open()
    sandbox.oauth.expire()
    await source.check()
    assert sandbox.oauth.issued == 2


async def test_a_refresh_token_is_used_once_and_its_successor_is_stored_first(
    sandbox: ZendeskSandbox, new_source: New, tmp_path: Path
) -> None:
    options = {**OAUTH, "refresh_token": sandbox.oauth.first(), "token_file": str(tmp_path / "tokens.json")}
    source = new_source(**options)
    await source.open()
    stored = json.loads((tmp_path / "tokens.json").read_text())
    assert stored["refresh"] not in ("", options["refresh_token"])
    assert (tmp_path / "tokens.json").stat().st_mode & 0o077 == 0
    sandbox.oauth.expire()
    await source._client.get("users/me.json", {}, _stream(), "me")
    await source.close()
    again = new_source(**options)  # a restart: the configured refresh token was used long ago
    await again.open()
    assert sandbox.oauth.issued == 3


def _stream() -> Any:
    from dimesh.sourcekit.budget import Priority

    return Priority.STREAM


async def test_a_token_that_another_process_replaced(
    sandbox: ZendeskSandbox, new_source: New, tmp_path: Path
) -> None:
    """The first source finds its access token deleted, and takes the one that the second has stored."""
    options = {**OAUTH, "refresh_token": sandbox.oauth.first(), "token_file": str(tmp_path / "tokens.json")}
    first, second = new_source(**options), new_source(**options)
    await first.open()
    await second.open()
    assert sandbox.oauth.issued == 2
    sandbox.oauth.expire()
    await second._client.get("users/me.json", {}, _stream(), "me")
    assert sandbox.oauth.issued == 3
    await first._client.get("users/me.json", {}, _stream(), "me")
    assert sandbox.oauth.issued == 3


@pytest.mark.slow
async def test_many_processes_share_one_refresher(sandbox: ZendeskSandbox, tmp_path: Path) -> None:
    """Tokens expire again and again while processes use them: no process is locked out."""
    token, file = sandbox.oauth.first(), str(tmp_path / "tokens.json")
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHILD, sandbox.url, token, file, "120", stderr=asyncio.subprocess.PIPE
        )
        for _ in range(3)
    ]
    ended = [asyncio.create_task(process.communicate()) for process in processes]
    expired = 0
    while not all(task.done() for task in ended):
        sandbox.oauth.expire()
        expired += 1
        await asyncio.sleep(0.2)  # the interval at which tokens expire
    assert [process.returncode for process in processes] == [0, 0, 0], [
        task.result()[1][-800:] for task in ended
    ]
    assert sandbox.oauth.issued <= expired + 3


async def test_a_process_that_dies_with_the_lock_locks_nobody_out(
    sandbox: ZendeskSandbox, new_source: New, tmp_path: Path
) -> None:
    file = tmp_path / "tokens.json"
    hold = (
        "import sys\nfrom pathlib import Path\nfrom dimesh.storage.filelock import FileLock\n"
        "FileLock(Path(sys.argv[1])).acquire()\nprint('held', flush=True)\nsys.stdin.read()"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        hold,
        f"{file}.lock",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    await process.stdout.readline()
    source = new_source(**OAUTH, token_file=str(file))
    opening = asyncio.create_task(source.open())
    done, _ = await asyncio.wait([opening], timeout=0.1)
    assert not done
    assert sandbox.oauth.issued == 0
    process.kill()
    await process.wait()
    async with deadline():
        await opening
    assert sandbox.oauth.issued == 1


async def test_a_refresh_token_that_something_else_used_is_an_error_that_says_so(
    sandbox: ZendeskSandbox, new_source: New
) -> None:
    token = sandbox.oauth.first()
    sandbox.oauth.answer({**OAUTH, "grant_type": "refresh_token", "refresh_token": token})
    with pytest.raises(CredentialsError, match=r"invalid_grant.*used by something else") as caught:
        await new_source(**OAUTH, refresh_token=token).open()
    assert token not in str(caught.value)


async def test_a_new_refresh_token_in_the_settings_replaces_the_stored_ones(
    sandbox: ZendeskSandbox, new_source: New, tmp_path: Path
) -> None:
    file = str(tmp_path / "tokens.json")
    await new_source(**OAUTH, refresh_token=sandbox.oauth.first(), token_file=file).open()
    sandbox.oauth.answer(
        {
            **OAUTH,
            "grant_type": "refresh_token",
            "refresh_token": json.loads(Path(file).read_text())["refresh"],
        }
    )
    await new_source(**OAUTH, refresh_token=sandbox.oauth.first(), token_file=file).open()


async def test_tokens_that_cannot_be_stored_are_an_error(
    sandbox: ZendeskSandbox, new_source: New, tmp_path: Path
) -> None:
    with pytest.raises(CredentialsError, match="token"):
        await new_source(**OAUTH, token_file=str(tmp_path / "nowhere" / "tokens.json")).open()


async def test_a_damaged_token_file_is_replaced(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "t.json", SystemClock())
    (tmp_path / "t.json").write_bytes(b"\xff{")
    assert file.read() is None
    async with file.locked():
        file.write(Tokens("a", 0.0))
    assert file.read() == Tokens("a", 0.0)
    assert [path.name for path in tmp_path.iterdir() if "lock" not in path.name] == ["t.json"]


async def test_an_api_token_warns_of_its_end(
    sandbox: ZendeskSandbox, new_source: New, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "dimesh.cdc.zendesk"):
        source = new_source()
    assert "2027-04-30" in caplog.text
    await source.open()
    result = await source.check()
    assert result.ok
    assert any("2027-04-30" in problem for problem in result.problems)
    sandbox.api_tokens.clear()
    with pytest.raises(CredentialsError, match="may have been deactivated"):
        await new_source().open()


def test_credentials_are_of_one_kind_and_complete() -> None:
    bus = EventBusFactory.create("memory")
    for options, problem in (
        ({}, "subdomain is missing"),
        ({"subdomain": "acme"}, "client_id and client_secret are missing"),
        ({"subdomain": "acme.zendesk.com", "access_token": "xxxx"}, "subdomain must be the name"),
        ({"subdomain": "acme", "client_id": "x"}, "client_secret is missing"),
        ({"subdomain": "acme", "client_secret": "xxxx"}, "client_id is missing"),
        ({"subdomain": "acme", "api_token": "xxxx"}, "email is missing"),
        ({"subdomain": "acme", "access_token": "xxxx", "api_token": "xxxx"}, "give one of them"),
        ({"url": "http://example.com", "access_token": "xxxx"}, "url must be https"),
    ):
        with pytest.raises(ConfigurationError, match=problem):
            ZendeskCDCConnector("z", bus, "P", **options)  # type: ignore[arg-type]
    made = ZendeskCDCConnector(
        "z", bus, "P", subdomain="acme", email="a@example.com", api_token="very_secret"
    )
    assert made._zendesk.options.address == "https://acme.zendesk.com"
    assert "very_secret" not in repr(made._zendesk.options)


# -- check -----------------------------------------------------------------------------------------


async def test_check_names_the_role_that_is_missing(sandbox: ZendeskSandbox, new_source: New) -> None:
    sandbox.roles[1] = "agent"
    source = new_source(**OAUTH)
    await source.open()
    result = await source.check()
    assert not result.ok
    assert "role agent" in result.problems[0]
    for name in ("tickets", "organizations", "ticket_metric_events", "ticket_comments"):
        assert "Administrator" in result.objects[name]
    assert result.objects["groups"] == ""


async def test_check_names_the_scope_that_is_missing(sandbox: ZendeskSandbox, new_source: New) -> None:
    """tickets:read does not cover audits."""
    source = new_source(**OAUTH, scope="tickets:read users:read")
    await source.open()
    result = await source.check()
    assert result.objects["tickets"] == result.objects["users"] == ""
    assert "scopes: read" in result.objects["ticket_audits"]
    assert "organizations:read" in result.objects["organizations"]


async def test_check_names_what_the_plan_lacks_and_costs_no_export(
    sandbox: ZendeskSandbox, new_source: New
) -> None:
    sandbox.absent.add("audit_logs")
    source = new_source(**OAUTH)
    await source.open()
    result = await source.check()
    assert result.ok
    assert "plan" in result.objects["audit_logs"]
    assert {obstacle for name, obstacle in result.objects.items() if name != "audit_logs"} == {""}
    assert not any(
        "incremental" in path for _, path in sandbox.requests if "ticket_metric_events" not in path
    )


# -- budgets ---------------------------------------------------------------------------------------


async def test_another_integration_uses_the_limit_up(
    sandbox: ZendeskSandbox, new_source: New, read: Callable[..., Any]
) -> None:
    """The limit is in no header: the source waits as long as it is told to, and loses nothing."""
    account = sandbox.account
    source = new_source(history=False, poll=0.02)
    await source.open()
    position = await source.position("tickets")
    account.create("tickets", {"subject": "a"})
    sandbox.limit.most = 10
    sandbox.limit.count(10 - len(sandbox.limit._times))
    account.advance(58)  # what was counted is that old
    before = len(sandbox.requests)
    began = time.monotonic()
    found, _ = await read(source, "tickets", position, lambda item: True)
    assert [c.after["subject"] for c in found] == ["a"]
    assert 1.0 < time.monotonic() - began < 20
    assert 1 <= sandbox.limit.refused <= 2
    assert len(sandbox.requests) - before <= 4
    assert source.account()["exports_refused"] == sandbox.limit.refused


async def test_exports_have_a_budget_of_their_own(sandbox: ZendeskSandbox, new_source: New) -> None:
    """Two of three exports may go at once, and lists do not wait for exports."""
    source = new_source(exports=3, ledger="")
    await source.open()
    waiting = asyncio.create_task(_exports(source, 4))
    await until(lambda: sum("incremental" in path for _, path in sandbox.requests) >= 1)
    for _ in range(20):
        await source._client.get("groups.json", {}, _stream(), "groups")
    assert sum("incremental" in path for _, path in sandbox.requests) == 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def _exports(source: ZendeskSource, count: int) -> None:
    for _ in range(count):
        await source._client.export(
            "incremental/tickets/cursor.json", {"start_time": "0"}, _stream(), "tickets"
        )


async def test_a_429_without_retry_after_waits_a_minute(sandbox: ZendeskSandbox, new_source: New) -> None:
    source = new_source(retry_for=0.0)
    await source.open()
    sandbox.faults.plan("rate_limit", path="/api/v2/groups")
    with pytest.raises(Exception, match="429"):
        await anext(source.snapshot("groups", None))
    budget = source._client.budget._budget
    assert budget.blocked_until - budget.at > 55


async def test_errors_of_both_shapes(sandbox: ZendeskSandbox, new_source: New) -> None:
    source = new_source(retry_for=0.0)
    await source.open()
    sandbox.faults.plan("forbidden", path="/api/v2/groups")
    with pytest.raises(SourceObjectError, match="Forbidden: You do not have access"):
        await anext(source.snapshot("groups", None))
    sandbox.roles[1] = "agent"
    with pytest.raises(SourceObjectError, match="Exports need an administrator"):
        await source.position("tickets")


async def test_the_email_of_the_token_is_needed(sandbox: ZendeskSandbox, new_source: New) -> None:
    await new_source(email=EMAIL, api_token=API_TOKEN).open()
    with pytest.raises(CredentialsError):
        await new_source(email="nobody@example.com", api_token=API_TOKEN).open()


async def test_a_role_that_is_lost_in_the_middle_loses_no_change(
    sandbox: ZendeskSandbox, new_source: New, read: Callable[..., Any]
) -> None:
    account = sandbox.account
    source = new_source(**OAUTH)
    await source.open()
    account.advance(1_000)
    position = await source.position("tickets")
    first = account.create("tickets", {"subject": "a"})["id"]
    account.advance(61)
    stream = source.stream("tickets", position)
    position = (await anext(stream)).position
    sandbox.roles[1] = "agent"
    account.update("tickets", first, {"subject": "b"})
    account.delete("tickets", first)
    account.advance(61)
    with pytest.raises(SourceObjectError, match="administrator"):
        await anext(stream)
    sandbox.roles[1] = "admin"
    second = account.create("tickets", {"subject": "c"})["id"]
    account.advance(61)
    found, _ = await read(source, "tickets", position, lambda item: item.primary_key["id"] == second)
    assert [(c.operation.value, c.primary_key["id"]) for c in found] == [
        ("update", first),
        ("delete", first),
        ("insert", second),
    ]
