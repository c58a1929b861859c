"""Many rows in constant memory, from a sandbox in another process into the sqlite bus."""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path
from typing import Any

import pytest

from dimesh import EventBusFactory, SalesforceCDCConnector
from dimesh_salesforce.sandbox import CLIENT_ID, CLIENT_SECRET

MB = 1_024


def peak() -> float:
    """Return the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MB


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("bulk", [False, True], ids=["pages", "bulk"])
async def test_many_rows_in_little_memory(tmp_path: Path, bulk: bool) -> None:
    rows = 300_000 if bulk else 100_000
    command = [sys.executable, "-m", "dimesh_salesforce.sandbox", "--port", "0", "--grpc-port", "0"]
    process = await asyncio.create_subprocess_exec(
        *command, "--accounts", str(rows), "--keep-alive", "0.2", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    words = (await process.stdout.readline()).decode().split()
    try:
        async with EventBusFactory.create(
            "sqlite", path=str(tmp_path / "mesh.db"), retention_records=50_000
        ) as bus:
            options: dict[str, Any] = {
                "client_id": CLIENT_ID,
                "client_secret": CLIENT_SECRET,
                "rate": 100_000,
            }
            connector = SalesforceCDCConnector(
                "large", bus, "", words[2], pubsub=words[words.index("API") + 1], plaintext=True,
                bulk_above=0 if bulk else 10**9, **options,
            )  # fmt: skip
            await connector.start(["Account"])

            def status() -> Any:
                return connector.get_status()["objects"]["Account"]

            while status()["snapshot_rows"] < rows // 10:
                await asyncio.sleep(0.05)
            held = peak()
            while status()["phase"] != "stream":
                assert status()["errors"] == 0, status()
                await asyncio.sleep(0.2)
            assert status()["snapshot_rows"] == rows
            assert peak() - held < 50
            await connector.disconnect()
    finally:
        process.terminate()
        await process.communicate()
