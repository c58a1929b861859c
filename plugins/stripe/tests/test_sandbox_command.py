"""``dimesh sandbox stripe`` as a process, and the controls of its page."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest

from dimesh_contracts.waiting import deadline
from dimesh_stripe.sandbox import StripeSandbox, facts


async def ended(folder: Path, *arguments: str, module: str = "dimesh") -> tuple[int | None, str, str]:
    """Run a command to its end; return its exit code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, cwd=folder,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with deadline():
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize(
    ("module", "first"), [("dimesh", ["sandbox", "stripe"]), ("dimesh_stripe.sandbox", [])]
)
@pytest.mark.slow
async def test_a_port_in_use(tmp_path: Path, module: str, first: Sequence[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = await ended(tmp_path, *first, "--port", str(port), module=module)
    assert (code, out) == (5, "")
    assert re.fullmatch(rf"error: cannot listen at 127\.0\.0\.1:{port}: .*Choose another port.*\n", err)


@pytest.mark.slow
async def test_a_wrong_option_and_help(tmp_path: Path) -> None:
    code, _, err = await ended(tmp_path, "sandbox", "stripe", "--customers", "1000000000")
    assert (code, "from 0 to 200,000" in err) == (2, True)
    code, out, _ = await ended(tmp_path, "sandbox", "stripe", "--", "--help")
    assert (code, out.startswith("usage: dimesh sandbox stripe ")) == (0, True)


@pytest.fixture
async def http(sandbox: StripeSandbox) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=sandbox.url) as made:
        yield made


async def test_too_many_rows_are_refused(http: httpx.AsyncClient, sandbox: StripeSandbox) -> None:
    answer = await http.post("/_sandbox/seed", json={"object": "customer", "count": 10**9})
    assert (answer.status_code, "1000000" in answer.json()["error"]) == (400, True)
    answer = await http.post("/_sandbox/seed", json={"object": "customer", "count": 200_001})
    assert (answer.status_code, "at most 200,000" in answer.json()["error"]) == (400, True)
    answer = await http.post("/_sandbox/seed", json={"object": "nobody"})
    assert (answer.status_code, "there are: " in answer.json()["error"]) == (400, True)
    assert not any(sandbox.account.rows(name) for name in facts.OBJECTS)


async def test_the_buttons_of_the_page(http: httpx.AsyncClient, sandbox: StripeSandbox) -> None:
    """Each button sends a command that the control endpoint accepts."""
    page = (await http.get("/_sandbox/page")).json()
    for action in page["actions"]:
        sent = await http.request(action["method"], f"/_sandbox/{action['command']}", json=action["body"])
        assert sent.status_code == 200, (action, sent.text)
    (customer,) = sandbox.account.rows("customer")
    for action in page["row_actions"]["customer"]:
        body = {**action["body"], "object": "customer", "id": customer["id"]}
        sent = await http.request(action["method"], f"/_sandbox/{action['command']}", json=body)
        assert sent.status_code == 200, (action, sent.text)
    assert sandbox.account.rows("customer") == []
    kinds = [event["type"] for event in sandbox.account.events()]
    assert kinds == ["customer.deleted", "customer.updated", "customer.created"]
