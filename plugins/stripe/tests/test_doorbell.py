"""``dimesh webhooks serve`` and ``dimesh sandbox`` as processes: a webhook wakes a source that runs elsewhere."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from dimesh.mesh import Mesh
from dimesh.settings import load_settings
from dimesh_contracts.waiting import deadline, until
from dimesh_stripe.sandbox import StripeSandbox
from dimesh_stripe.sandbox.server import KEY

TOML = """
[mesh]
data_dir = "."
[bus]
driver = "sqlite"
options = {{ path = "{folder}/mesh.db" }}
[cdc]
state = "{folder}/cdc.db"
[[sources]]
driver = "stripe"
name = "billing"
objects = ["customer"]
[sources.options]
api_key = "{key}"
url = "{url}"
poll = 3600
reread = 3600
webhook_secrets = ["{secret}"]
"""
Start = Callable[..., Any]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start a command, and return its first line of output."""
    running: list[asyncio.subprocess.Process] = []

    async def begin(*args: str) -> str:
        command = [sys.executable, "-m", "dimesh", *args]
        with (tmp_path / "err.log").open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=errors
            )
        running.append(process)
        assert process.stdout is not None
        async with deadline():
            return (await process.stdout.readline()).decode()

    yield begin
    for process in running:
        process.terminate()
        async with deadline():
            await process.communicate()


@pytest.mark.slow
async def test_a_webhook_wakes_a_source_in_another_process(
    sandbox: StripeSandbox, start: Start, tmp_path: Path
) -> None:
    """The source polls every hour; the webhook makes it read at once."""
    secret = "whsec_s3cr3t"
    file = tmp_path / "dimesh.toml"
    file.write_text(TOML.format(folder=tmp_path.as_posix(), key=KEY, url=sandbox.url, secret=secret))
    printed = await start("--output", "json", "webhooks", "serve", "--port", "0")
    found = json.loads(printed)
    assert found["paths"] == {"/webhooks/billing": "billing"}
    async with httpx.AsyncClient(base_url=sandbox.url, headers={"authorization": f"Bearer {KEY}"}) as client:
        url = f"{found['address']}/webhooks/billing"
        made = await client.post("/v1/webhook_endpoints", data={"url": url, "enabled_events[]": "*"})
    sandbox.endpoints[made.json()["id"]].secrets = [secret]
    mesh = Mesh(load_settings(file).settings)
    try:
        await mesh.start()
        connector = mesh.cdc.get_connector("billing")
        await until(lambda: connector.get_status()["objects"]["customer"]["phase"] == "stream")
        captured: list[Any] = []
        await mesh.bus.subscribe("cdc.stripe", lambda e: captured.append(e.payload["after"]["name"]), "t")
        for n in range(3):
            sandbox.account.create("customer", {"name": f"c{n}"})
            await until(lambda n=n: len(captured) == n + 1)
        assert captured == ["c0", "c1", "c2"]
    finally:
        await mesh.close()
    async with httpx.AsyncClient(base_url=found["address"]) as client:
        assert (await client.post("/webhooks/billing", content=b"{}")).status_code == 400
        assert (await client.post("/webhooks/nobody", content=b"{}")).status_code == 404

    def refused() -> list[Any]:
        records = [json.loads(line) for line in (tmp_path / "err.log").read_text().splitlines()]
        return [r for r in records if r["message"].startswith("a webhook was refused: ")]

    assert [(r["level"], r["logger"]) for r in refused()] == [("WARNING", "dimesh.cdc.stripe.webhooks")]
    for _ in range(100):
        async with httpx.AsyncClient(base_url=found["address"]) as client:
            await client.post("/webhooks/billing", content=b"{}")
    assert len(refused()) == 5  # nobody can fill the log with them


@pytest.mark.slow
async def test_sandboxes_by_command(start: Start) -> None:
    printed = await start("sandbox", "stripe", "--port", "0", "--customers", "3")
    url = printed.split()[2]
    async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}) as client:
        assert len((await client.get("/v1/customers")).json()["data"]) == 3


@pytest.mark.slow
async def test_an_unknown_sandbox(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dimesh", "sandbox", "nobody", stderr=asyncio.subprocess.PIPE, cwd=tmp_path
    )
    _, text = await process.communicate()
    assert process.returncode == 3
    assert b"there are: " in text
    assert b"stripe" in text


@pytest.mark.slow
async def test_webhooks_without_a_secret(sandbox: StripeSandbox, tmp_path: Path) -> None:
    text = TOML.format(folder=tmp_path.as_posix(), key=KEY, url=sandbox.url, secret="")
    (tmp_path / "dimesh.toml").write_text(text.replace('webhook_secrets = [""]', ""))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "dimesh",
        "webhooks",
        "serve",
        "--port",
        "0",
        stderr=asyncio.subprocess.PIPE,
        cwd=tmp_path,
    )
    _, text_ = await process.communicate()
    assert process.returncode == 3
    assert b"webhook_secrets" in text_


@pytest.mark.slow
async def test_the_demo_of_this_plugin(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dimesh", "--output", "json", "demo", "--part", "stripe",
        cwd=tmp_path, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    text, _ = await process.communicate()
    result = json.loads(text)
    assert result["ok"], result
    assert set(result["parts"]) == {"stripe"}
    assert process.returncode == 0
