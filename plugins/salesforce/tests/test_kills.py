"""`dimesh run` is killed at any moment, again and again, in snapshot and stream, while the org changes."""

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
from dimesh_salesforce.sandbox import CLIENT_ID, CLIENT_SECRET, Org, SalesforceSandbox
from dimesh_salesforce.schemas import HEADER, Schema

TOML = """
[mesh]
data_dir = "{folder}"
[bus]
driver = "sqlite"
options = {{ path = "{folder}/mesh.db" }}
[cdc]
state = "{folder}/cdc.db"
[[sources]]
driver = "salesforce"
name = "crm"
objects = ["Account"]
[sources.options]
instance_url = "{url}"
client_id = "{id}"
client_secret = "{secret}"
pubsub = "{grpc}"
plaintext = true
rate = 10000
page = 20
"""


class History:
    """What a consumer saw."""

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}
        self.transactions: set[str] = set()
        self.by_id: dict[str, Any] = {}

    async def __call__(self, event: Event) -> None:
        payload = event.payload
        if "operation" not in payload:
            return
        said = (payload["operation"], payload["primary_key"], payload["sequence"])
        assert self.by_id.setdefault(event.event_id, said) == said, "one id for two changes"
        key = payload["primary_key"]["Id"]
        if payload["transaction"]:
            self.transactions.add(payload["transaction"])
        if payload["operation"] == "delete":
            self.rows.pop(key, None)
        elif "Name" in payload["after"]:
            self.rows[key] = payload["after"]["Name"]


def change(org: Org, rng: random.Random, ids: list[str]) -> str:
    """One change; the key of its transaction."""
    if not ids or rng.random() < 0.3:
        ids.append(org.create("Account", {"Name": f"new {rng.random()}"}))
    elif rng.random() < 0.2:
        org.delete("Account", ids.pop(rng.randrange(len(ids))))
    else:
        org.update("Account", rng.choice(ids), {"Name": f"changed {rng.random()}"})
    schema = Schema("s", org.schemas[org.told[-1].schema_id])
    return str(schema.decode(org.told[-1].payload)[HEADER]["transactionKey"])


@pytest.mark.timeout(300)
async def test_killed_again_and_again(sandbox: SalesforceSandbox, tmp_path: Path) -> None:
    be_patient(60.0)
    org, rng = sandbox.org, random.Random(6)
    org.seed("Account", 300)
    ids = [row["Id"] for row in org.rows("Account")]
    given = {"url": sandbox.url, "grpc": sandbox.grpc_target, "id": CLIENT_ID, "secret": CLIENT_SECRET}
    (tmp_path / "dimesh.toml").write_text(TOML.format(folder=tmp_path.as_posix(), **given))
    bus: EventBus = EventBusFactory.create("sqlite", path=str(tmp_path / "mesh.db"))
    history = History()
    await bus.subscribe("cdc.salesforce", history, "history", start=StartAt.EARLIEST)
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
            transaction = change(org, rng, ids)
            if seen:
                expected.add(transaction)
            await asyncio.sleep(rng.uniform(0.001, 0.02))  # how often it changes
        process.send_signal(signal.SIGKILL)
        await process.communicate()
    process = await start()
    await until(lambda: history.rows == {row["Id"]: row["Name"] for row in org.rows("Account")})
    await until(lambda: expected <= history.transactions)
    assert len(expected) > 10
    process.terminate()
    await process.communicate()
    assert process.returncode == 0
    await bus.close()
