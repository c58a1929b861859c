"""``dimesh sandbox netsuite``, ``dimesh cdc check`` and ``dimesh run`` as processes, from one file of settings."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from dimesh import EventBusFactory, StartAt
from dimesh_contracts.waiting import be_patient, deadline, until
from dimesh_netsuite.sandbox import NetSuiteSandbox

pytestmark = pytest.mark.slow


async def ended(folder: Path, *arguments: str, module: str = "dimesh") -> tuple[int | None, str, str]:
    """Run a command to its end; return its exit code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, cwd=folder,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with deadline():
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def folder(sandbox: NetSuiteSandbox, tmp_path: Path) -> Path:
    be_patient(60.0)
    (tmp_path / "netsuite.pem").write_text(sandbox.security.private_key())
    (tmp_path / "dimesh.toml").write_text(
        f"""
[bus]
driver = "sqlite"
options = {{ path = "mesh.db" }}
[cdc]
state = "cdc.db"
[[sources]]
driver = "netsuite"
name = "erp"
pillar = "Resource & Supply"
objects = ["customer", "transaction"]
[sources.options]
account_id = "{sandbox.account.id}"
client_id = "sandbox-client-id"
certificate_id = "sandbox-certificate"
private_key_file = "netsuite.pem"
url = "{sandbox.url}"
poll = 0.1
reread = 0.3
read_lag = 0.1
"""
    )
    return tmp_path


@pytest.fixture
async def running(folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start ``dimesh run``."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dimesh", "--output", "json", "run", cwd=folder,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    await process.stdout.readline()  # printed once it runs
    yield process
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    await process.communicate()


async def test_a_file_and_two_commands(
    sandbox: NetSuiteSandbox, folder: Path, running: asyncio.subprocess.Process
) -> None:
    account = sandbox.account
    customer = account.create("customer", {"companyname": "Acme"}, at=account.now() - 86_400)
    account.create("transaction", {"type": "Journal"}, at=account.now() - 86_400)
    seen: list[tuple[str, Any, Any]] = []

    async def note(event: Any) -> None:
        payload = event.payload
        if "operation" in payload:
            after = payload["after"] or {}
            name = after.get("companyname") or [line["memo"] for line in after.get("lines", [])]
            seen.append((payload["object"], payload["operation"], name))

    async with EventBusFactory.create("sqlite", path=str(folder / "mesh.db")) as bus:
        await bus.subscribe("cdc.netsuite", note, "notes", start=StartAt.EARLIEST)
        await until(lambda: len(seen) == 2)
        order = account.create("transaction", {"type": "SalesOrd"})
        account.set_lines(order, [{"memo": "a"}, {"memo": "b"}])
        await until(lambda: len(seen) == 3)
        account.skew += 5
        account.update("customer", customer, {"companyname": "Acme Ltd"})
        account.delete("transaction", order)
        await until(lambda: len(seen) == 5)
    assert {operation for _, operation, _ in seen[:2]} == {"snapshot"}
    assert ("transaction", "insert", ["a", "b"]) in seen
    assert ("customer", "update", "Acme Ltd") in seen
    assert ("transaction", "delete", []) in seen
    code, out, _ = await ended(folder, "--output", "json", "cdc", "status")
    assert code == 0
    assert "erp" in out
    assert "sandbox-client" not in out


async def test_the_check_names_the_missing_permission(sandbox: NetSuiteSandbox, folder: Path) -> None:
    code, out, err = await ended(folder, "cdc", "check")
    assert (code, "failed" in out) == (0, False), out + err
    sandbox.account.role.without |= {"transaction", "deletedrecord"}
    code, out, err = await ended(folder, "--output", "json", "cdc", "check")
    assert code != 0
    found = json.dumps(json.loads(out))
    assert "Deleted Records (Setup)" in found
    assert "Find Transaction (Transactions)" in found
    sandbox.security.certificates.clear()
    code, out, err = await ended(folder, "cdc", "check")
    assert code != 0
    assert "invalid_grant" in out + err


@pytest.mark.parametrize(
    ("module", "first"), [("dimesh", ["sandbox", "netsuite"]), ("dimesh_netsuite.sandbox", [])]
)
async def test_a_port_in_use(tmp_path: Path, module: str, first: Sequence[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = await ended(tmp_path, *first, "--port", str(port), module=module)
    assert (code, out) == (5, "")
    assert re.fullmatch(rf"error: cannot listen at 127\.0\.0\.1:{port}: .*Choose another port.*\n", err)


async def test_the_sandbox_as_a_command(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dimesh", "sandbox", "netsuite", "--port", "0", "--rows", "3", "--seed", "customer,item",
        "--key", "key.pem", cwd=tmp_path, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    async with deadline():
        line = (await process.stdout.readline()).decode()
    url = line.split()[2]
    async with httpx.AsyncClient(base_url=url) as http:
        for table in ("customer", "item"):
            answer = await http.post("/_sandbox/query", json={"q": f"SELECT COUNT(*) AS n FROM {table}"})
            assert answer.json()["rows"] == [["3"]]
    assert (tmp_path / "key.pem").stat().st_mode & 0o077 == 0
    assert "BEGIN PRIVATE KEY" in (tmp_path / "key.pem").read_text()
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert process.returncode == 0
