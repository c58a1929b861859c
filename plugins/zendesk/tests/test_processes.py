"""``dimesh.toml`` and the commands, as processes: ``dimesh run`` is killed and continues, ``dimesh webhooks serve`` wakes it,
``dimesh cdc check`` names what is missing, ``dimesh sandbox zendesk`` serves.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from dimesh import Event, EventBusFactory, StartAt
from dimesh_contracts.waiting import deadline, until
from dimesh_zendesk.sandbox import API_TOKEN, CLIENT_ID, CLIENT_SECRET, EMAIL, ZendeskSandbox

TOML = """
[mesh]
data_dir = "."
[bus]
driver = "sqlite"
options = {{ path = "mesh.db" }}
[cdc]
state = "cdc.db"
[[sources]]
driver = "zendesk"
name = "support"
objects = ["tickets", "users", "macros"]
[sources.options]
client_id = "{id}"
client_secret = "{secret}"
token_file = "tokens.json"
url = "{url}"
hold_back = 1.0
poll = {poll}
exports = 100000
rate = 1000
refresh = 0.5
read_lag = 0.1
ledger = ""
webhook_secrets = ["{signing}"]
"""
Start = Callable[..., Any]


@pytest.fixture
async def sandbox() -> AsyncIterator[ZendeskSandbox]:
    async with ZendeskSandbox(exports_a_minute=100_000, hold_back=1.0) as made:
        yield made


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start a command, and return the process and its first line of output."""
    running: list[Process] = []

    async def begin(*args: str) -> tuple[Process, str]:
        command = [sys.executable, "-m", "dimesh", "--output", "json", *args]
        with (tmp_path / "err.log").open("ab") as errors:
            process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stdout=PIPE, stderr=errors)
        running.append(process)
        assert process.stdout is not None
        async with deadline(3):
            return process, (await process.stdout.readline()).decode()

    yield begin
    for process in running:
        if process.returncode is None:
            process.terminate()
        async with deadline():
            await process.communicate()


def settings(folder: Path, sandbox: ZendeskSandbox, poll: float, signing: str = "not yet") -> None:
    text = TOML.format(id=CLIENT_ID, secret=CLIENT_SECRET, url=sandbox.url, poll=poll, signing=signing)
    (folder / "dimesh.toml").write_text(text)


@pytest.mark.slow
async def test_a_run_that_is_killed_continues_where_it_was(
    sandbox: ZendeskSandbox, start: Start, tmp_path: Path
) -> None:
    """Killed in the snapshot and in the stream, again and again: every change arrives, and every row ends as it is."""
    account = sandbox.account
    settings(tmp_path, sandbox, 0.05)
    ids = [account.create("tickets", {"subject": f"t{n}"}, at=account.now() - 100)["id"] for n in range(300)]
    macro = account.create("macros", {"title": "m"})["id"]
    rows: dict[Any, Any] = {}
    updates: set[str] = set()

    async def mirror(event: Event) -> None:
        payload = event.payload
        if payload.get("operation") is None:
            return
        key, after = payload["primary_key"]["id"], payload["after"]
        if payload["operation"] == "delete":
            rows.pop(key, None)
        else:
            rows[key] = after.get("subject") or after.get("title") or after.get("name")
            updates.add(rows[key])

    expected: set[str] = set()
    async with EventBusFactory.create("sqlite", path=str(tmp_path / "mesh.db")) as bus:
        await bus.subscribe("cdc.zendesk", mirror, "mirror", start=StartAt.EARLIEST)
        for life in range(4):
            process, _ = await start("run")
            await until(lambda: len(rows) >= 301 - 10 * 4)
            for n in range(40):
                name = f"life {life} change {n}"
                account.update("tickets", ids[(life * 40 + n * 7) % 250], {"subject": name})
                expected.add(name)
                if n % 10 == 0:
                    await asyncio.sleep(0.05 * life)  # the moment of the death is what is tried
            account.delete("tickets", ids.pop())
            process.kill()
            await process.wait()
        account.update("macros", macro, {"title": "new"})
        await start("run")
        truth = {row["id"]: row["subject"] for row in account.rows("tickets")} | {macro: "new"}
        await until(lambda: rows == truth, 2)
        assert expected <= updates


@pytest.mark.slow
async def test_a_webhook_wakes_a_run_in_another_process(
    sandbox: ZendeskSandbox, start: Start, tmp_path: Path
) -> None:
    """The source polls every hour; the webhook makes it read when the hold-back is over."""
    sandbox.webhooks.answer("GET", [], {})
    hook = {
        "endpoint": "http://127.0.0.1:1/",
        "status": "active",
        "subscriptions": ["conditional_ticket_events"],
    }
    _, made = sandbox.webhooks.answer("POST", [], {"webhook": hook})
    webhook = sandbox.webhooks.webhooks[made["webhook"]["id"]]
    settings(tmp_path, sandbox, 3_600, webhook.secret)
    _, printed = await start("webhooks", "serve", "--port", "0")
    found = json.loads(printed)
    assert found["paths"] == {"/webhooks/support": "support"}
    webhook.given["endpoint"] = f"{found['address']}/webhooks/support"
    await start("run")
    seen: list[str] = []

    async def note(event: Event) -> None:
        if event.payload.get("operation"):
            seen.append(event.payload["after"]["subject"])

    await until(lambda: sum("incremental/tickets" in path for _, path in sandbox.requests) >= 3, 3)
    async with EventBusFactory.create("sqlite", path=str(tmp_path / "mesh.db")) as bus:
        await bus.subscribe("cdc.zendesk", note, "noted", start=StartAt.EARLIEST)
        for n in range(2):
            sandbox.account.create("tickets", {"subject": f"t{n}"})
            await until(lambda n=n: seen == [f"t{m}" for m in range(n + 1)])
    assert [entry["status"] for entry in webhook.invocations] == ["success"] * 2
    async with httpx.AsyncClient(base_url=found["address"]) as client:
        assert (await client.post("/webhooks/support", content=b"{}")).status_code == 400


@pytest.mark.slow
async def test_check_as_a_command_names_the_missing_permission(
    sandbox: ZendeskSandbox, start: Start, tmp_path: Path
) -> None:
    settings(tmp_path, sandbox, 1)
    process, first = await start("cdc", "check")
    rest, _ = await process.communicate()
    assert process.returncode == 0, first + rest.decode()
    sandbox.roles[1] = "agent"
    process, first = await start("cdc", "check")
    rest, _ = await process.communicate()
    text = first + rest.decode() + (tmp_path / "err.log").read_text()
    assert process.returncode != 0
    assert "role agent" in text
    assert "People" in text
    assert CLIENT_SECRET not in text


@pytest.mark.slow
async def test_the_sandbox_as_a_command(start: Start) -> None:
    _, printed = await start("sandbox", "zendesk", "--port", "0", "--tickets", "3", "--hold-back", "0")
    url = printed.split()[2]
    async with httpx.AsyncClient(base_url=url, auth=(f"{EMAIL}/token", API_TOKEN)) as client:
        assert len((await client.get("/api/v2/tickets.json?page[size]=100")).json()["tickets"]) == 3
        page = (await client.get("/_sandbox/page")).json()
        for action in page["actions"]:
            sent = await client.request(
                action["method"], f"/_sandbox/{action['command']}", json=action["body"]
            )
            assert sent.status_code == 200, (action, sent.text)
        assert (await client.delete("/_sandbox/faults")).status_code == 200
        created = (
            await client.post("/_sandbox/records", json={"object": "tickets", "fields": {"subject": "s"}})
        ).json()
        for action in page["row_actions"]["tickets"]:
            body = {name: created["id"] if name == "id" else value for name, value in action["body"].items()}
            if "object" in body:
                body["object"] = "tickets"
            sent = await client.request(action["method"], f"/_sandbox/{action['command']}", json=body)
            assert sent.status_code == 200, (action, sent.text)
