"""Clients that others wrote, against ``dimesh registry serve`` as a process, with a password."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from servers.availability import unavailable
from servers.processes import ServerProcess, ServerUnavailable, accepts, free_ports
from servers.registry_clients import franz, kafkajs

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]
PASSWORD: Final = "a password: of the test"


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    (tmp_path / "dimesh.toml").write_text(
        f'[mesh]\ndata_dir = {json.dumps(str(tmp_path))}\n[registry]\ndriver = "{request.param}"\n[registry.serve]\nusers = {{ shop = "{PASSWORD}" }}\n'
    )
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "dimesh", "--config", str(tmp_path / "dimesh.toml"), "registry", "serve"]
    server = ServerProcess([*command, "--listen", f"127.0.0.1:{port}"], tmp_path / "registry.log")
    server.start(lambda: accepts(port))
    yield f"http://127.0.0.1:{port}"
    server.stop()


def ran(program: Callable[[], list[str]], *arguments: str) -> dict[str, Any]:
    try:
        command = program()
    except ServerUnavailable as error:
        unavailable(error)
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_franz_go(url: str) -> None:
    found = ran(franz, url, "shop", PASSWORD)
    assert found.pop("types") >= 2  # the languages that are installed
    assert found == {
        "versions": [1, 1, 2],
        "same id": True,
        "incompatible": 40901,
        "verdict": False,
        "messages": False,
        "by id": True,
        "looked up": 1,
        "latest": 2,
        "subjects": ["orders/of the shop-value"],
        "context id": 1,
        "level": "NONE",
        "free": 3,
        "reset": "NONE",
        "mode": "READONLY",
        "read only": 42205,
        "hard first": 40407,
        "soft": True,
        "hard": True,
        "left": [1, 2],
        "no version": 40402,
        "no subject": 40401,
        "frame": True,
    }


def test_kafkajs(url: str) -> None:
    found = ran(kafkajs, url, "shop", PASSWORD)
    # The client itself compares the level that it wants with that of the subject.
    assert "BACKWARD != FULL" in found.pop("other level")
    assert found == {
        "same id": True,
        "incompatible": 409,
        "bytes": "00",
        "decoded": {"id": 7},
        "invalid": True,
        "looked": True,
        "latest": True,
        "version": True,
        "unknown": 404,
        "no id": 404,
        "avro": 7,
    }
