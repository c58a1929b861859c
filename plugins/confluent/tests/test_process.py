"""A mesh whose registry is another process: ``dimesh schema`` and ``dimesh run`` against ``dimesh registry serve``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from servers.processes import ServerProcess, accepts, free_ports

ORDER = {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}
HANDLER = """
import pathlib

def keep(event):
    with pathlib.Path("handled").open("a") as file:
        file.write(event.payload["id"] + "\\n")
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[ServerProcess, int]]:
    folder = tmp_path / "registry"
    folder.mkdir()
    (folder / "dimesh.toml").write_text(
        f"[mesh]\ndata_dir = {json.dumps(str(folder))}\n[registry.serve]\nusers = {{ shop = 'hunter2' }}\n"
    )
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "dimesh", "--config", str(folder / "dimesh.toml"), "registry", "serve"]
    made = ServerProcess([*command, "--listen", f"127.0.0.1:{port}"], folder / "log")
    made.start(lambda: accepts(port))
    yield made, port
    made.stop()


@pytest.fixture
def mesh(tmp_path: Path, server: tuple[ServerProcess, int]) -> Path:
    folder = tmp_path / "mesh"
    folder.mkdir()
    write(folder / "dimesh.toml", server[1], validate=True)
    write(folder / "unchecked.toml", server[1], validate=False)
    (folder / "order.json").write_text(json.dumps(ORDER))
    (folder / "narrow.json").write_text(json.dumps({**ORDER, "required": ["id", "total"]}))
    (folder / "my_handlers.py").write_text(HANDLER)
    return folder


def write(path: Path, port: int, *, validate: bool) -> None:
    path.write_text(
        f"""
[mesh]
data_dir = "data"

[bus]
validate_schemas = {json.dumps(validate)}

[registry]
driver = "confluent"
options = {{ url = "http://127.0.0.1:{port}", username = "shop", password = "${{SHOP}}", retry_for = 1, latest_ttl = 0 }}

[[handlers]]
topic = "orders"
call = "my_handlers:keep"
start = "earliest"
"""
    )


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dimesh", *arguments]


def dimesh(folder: Path, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        command(*arguments),
        cwd=folder,
        env={**os.environ, "SHOP": "hunter2"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def eventually(check: Callable[[], Any], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.mark.slow
def test_schemas_are_listed_registered_and_checked(mesh: Path, server: tuple[ServerProcess, int]) -> None:
    assert "no subjects" in dimesh(mesh, "schema", "list")
    assert "version 1, id 1" in dimesh(mesh, "schema", "register", "event.order.created", "order.json")
    assert "event.order.created" in dimesh(mesh, "schema", "list")
    assert ": compatible" in dimesh(mesh, "schema", "check", "event.order.created", "order.json")
    refused = dimesh(mesh, "schema", "check", "event.order.created", "narrow.json", code=1)
    assert "NOT compatible" in refused
    assert "total" in refused
    assert "total" in dimesh(mesh, "schema", "register", "event.order.created", "narrow.json", code=1)
    assert json.loads(dimesh(mesh, "schema", "get", "event.order.created")) == ORDER
    server[0].stop()
    down = dimesh(mesh, "schema", "list", code=5)
    assert "could not be reached at http://127.0.0.1" in down


@pytest.mark.slow
def test_run_goes_on_with_known_schemas_while_the_registry_is_down(
    mesh: Path, server: tuple[ServerProcess, int]
) -> None:
    registry, port = server
    dimesh(mesh, "schema", "register", "event.order.created", "order.json")

    def publish(settings: str, value: str, code: int = 0) -> str:
        payload = json.dumps({"id": value})
        return dimesh(
            mesh,
            "--config",
            settings,
            "publish",
            "orders",
            "--type",
            "order.created",
            "--payload",
            payload,
            code=code,
        )

    def handled() -> list[str]:
        path = mesh / "handled"
        return path.read_text().split() if path.exists() else []

    program = "import os, runpy, sys; os.chdir(sys.argv.pop(1)); sys.path.insert(0, ''); runpy.run_module('dimesh', run_name='__main__')"
    run = ServerProcess(
        [sys.executable, "-c", program, str(mesh), "run"], mesh / "run.log", {"SHOP": "hunter2"}
    )
    publish("dimesh.toml", "before")
    run.start(lambda: handled() == ["before"])
    try:
        registry.stop()
        publish("unchecked.toml", "while-down")
        eventually(lambda: handled() == ["before", "while-down"])
        assert "could not be reached" in publish("dimesh.toml", "unknown to this process", code=5)
        registry.start(lambda: accepts(port))
        publish("dimesh.toml", "after")
        eventually(lambda: handled() == ["before", "while-down", "after"])
    finally:
        run.stop()
    assert "hunter2" not in (mesh / "run.log").read_text()
