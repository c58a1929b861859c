"""`dimesh run` is killed at any moment, again and again, in snapshot and stream, while the account changes."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from dimesh import Event, EventBus, EventBusFactory, StartAt
from dimesh_contracts.waiting import be_patient, until
from dimesh_stripe.sandbox import StripeSandbox
from dimesh_stripe.sandbox.server import KEY

TOML = """
[mesh]
data_dir = "{folder}"
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
poll = 0.05
reread = 0.2
rate = 1000
page = 20
"""


class History:
    """What a consumer saw."""

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}
        self.requests: set[str] = set()
        self.by_id: dict[str, Any] = {}

    async def __call__(self, event: Event) -> None:
        payload = event.payload
        if "operation" not in payload:
            return
        said = (payload["operation"], payload["primary_key"], payload["after"], payload["sequence"])
        assert self.by_id.setdefault(event.event_id, said) == said, "one id for two changes"
        key = payload["primary_key"]["id"]
        if payload["transaction"]:
            self.requests.add(payload["transaction"])
        if payload["operation"] == "delete":
            self.rows.pop(key, None)
        else:
            self.rows[key] = payload["after"]["name"]


async def change(account: Any, rng: random.Random, ids: list[str]) -> str:
    """One change; the id of its request."""
    if not ids or rng.random() < 0.3:
        ids.append(account.create("customer", {"name": f"new {rng.random()}"})["id"])
    elif rng.random() < 0.2:
        account.delete("customer", ids.pop(rng.randrange(len(ids))))
    else:
        account.update("customer", rng.choice(ids), {"name": f"changed {rng.random()}"})
    return str(next(account.events())["request"]["id"])


@pytest.mark.timeout(300)
async def test_killed_again_and_again(sandbox: StripeSandbox, tmp_path: Path) -> None:
    be_patient(60.0)
    account, rng = sandbox.account, random.Random(6)
    ids = [account.create("customer", {"name": f"c{n}"}, event=False)["id"] for n in range(300)]
    (tmp_path / "dimesh.toml").write_text(TOML.format(folder=tmp_path.as_posix(), key=KEY, url=sandbox.url))
    bus: EventBus = EventBusFactory.create("sqlite", path=str(tmp_path / "mesh.db"))
    history = History()
    await bus.subscribe("cdc.stripe", history, "history", start=StartAt.EARLIEST)
    expected: set[str] = set()

    async def start() -> asyncio.subprocess.Process:
        command = [sys.executable, "-m", "dimesh", "--output", "json", "run"]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        assert process.stdout is not None
        await process.stdout.readline()  # it has begun
        return process

    for _ in range(6):
        process = await start()
        end = asyncio.get_running_loop().time() + rng.uniform(0.0, 0.4)
        while asyncio.get_running_loop().time() < end:
            seen = bool(history.by_id)  # its position is stored: from here on every change is to come
            request = await change(account, rng, ids)
            if seen:
                expected.add(request)
            await asyncio.sleep(rng.uniform(0.001, 0.02))  # how often it changes
        process.send_signal(signal.SIGKILL)
        await process.communicate()
    process = await start()
    await until(lambda: history.rows == {row["id"]: row["name"] for row in account.rows("customer")})
    await until(lambda: expected <= history.requests)
    assert len(expected) > 10
    process.terminate()
    await process.communicate()
    assert process.returncode == 0
    await bus.close()
