"""``[http] listen``: health, readiness and metrics of the commands that run until they are stopped."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
from pathlib import Path

import pytest

from dimesh.backends.cdc.outbox import watch
from dimesh.cli.exit_codes import ExitCode

from .conftest import Run
from .processes import eventually, free_port, get, running

HANDLERS = """
import asyncio, pathlib

async def handle(event):
    pathlib.Path("began").touch()
    while not pathlib.Path("go").exists():
        await asyncio.sleep(0.01)
"""


def settings(folder: Path, port: int) -> None:
    (folder / "slow_handlers.py").write_text(HANDLERS)
    (folder / "dimesh.toml").write_text(
        f"[http]\nlisten = '127.0.0.1:{port}'\n[bus]\ndriver = 'sqlite'\n[bus.options]\npath = 'mesh.db'\n"
        "[[handlers]]\ntopic = 'orders'\ncall = 'slow_handlers:handle'\ngroup = 'billing'\n"
    )


@pytest.mark.slow
def test_health_from_the_start_to_the_end(dimesh: Run, tmp_path: Path) -> None:
    port = free_port()
    settings(tmp_path, port)
    with running(tmp_path, "run") as process:
        eventually(lambda: get(port, "/readyz")[0] == 200)
        assert get(port, "/healthz") == (200, "alive\n")
        ready = json.loads(get(port, "/readyz")[1])
        assert ready == {"ready": True, "stage": "running", "problems": []}
        assert get(port, "/healthz", "HEAD") == (200, "")
        assert get(port, "/metrics", "POST")[0] == 405
        assert [get(port, path)[0] for path in ("/", "/metrics/x", "/healthz/", "/webhooks/x")] == [404] * 4
        dimesh("publish", "orders", "--type", "order.created", stdin="1")
        eventually((tmp_path / "began").exists)
        assert 'dimesh_events_in_flight{topic="orders",group="billing"} 1\n' in get(port, "/metrics")[1]
        process.send_signal(signal.SIGTERM)
        eventually(lambda: get(port, "/readyz")[0] == 503)
        assert json.loads(get(port, "/readyz")[1])["problems"][0]["reason"] == "the process is stopping"
        assert get(port, "/healthz")[0] == 200  # a drain is no reason to be killed
        assert get(port, "/webhooks/x")[0] == 503
        (tmp_path / "go").touch()
        assert process.wait(20) == ExitCode.OK
    assert get(port, "/healthz")[0] == 0


@pytest.mark.slow
def test_a_port_in_use(dimesh: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings(tmp_path, port)
        result = dimesh("run", code=ExitCode.UNAVAILABLE)
    assert (
        f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another [http] listen"
        in result.err
    )


@pytest.mark.slow
def test_the_extra_is_missing(dimesh: Run, tmp_path: Path) -> None:
    settings(tmp_path, 0)
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['uvicorn'] = None\n")
    result = dimesh("run", code=ExitCode.CONFIGURATION, PYTHONPATH=str(tmp_path))
    assert "pip install 'dimesh[http]'" in result.err


@pytest.mark.slow
def test_cdc_run_serves_the_health_of_its_sources(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "dimesh.toml").write_text(
        f"[http]\nlisten = '127.0.0.1:{port}'\n"
        + "".join(
            f"[[sources]]\nname = '{name}'\ndriver = 'outbox'\nobjects = ['customers']\n"
            f"options = {{ path = '{name}.db', poll = 0.05 }}\n"
            for name in ("shop", "not-run")
        )
    )
    with running(tmp_path, "cdc", "run", "shop") as process:
        eventually(lambda: '"source"' in get(port, "/readyz")[1])
        status, body = get(port, "/readyz")
        (problem,) = json.loads(body)["problems"]
        assert (status, problem["part"], problem["name"]) == (503, "source", "shop/customers")
        assert "there is no database shop.db" in problem["reason"]
        assert get(port, "/healthz") == (200, "alive\n")
        with sqlite3.connect(tmp_path / "being-made.db") as connection:
            connection.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY)")
            watch(connection, "customers")
            connection.execute("INSERT INTO customers VALUES (1)")
        connection.close()
        (tmp_path / "being-made.db").rename(tmp_path / "shop.db")
        eventually(lambda: get(port, "/readyz")[0] == 200)
        eventually(
            lambda: (
                'dimesh_source_rows_total{source="shop",object="customers"} 1\n' in get(port, "/metrics")[1]
            )
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == ExitCode.OK
    assert get(port, "/healthz")[0] == 0


@pytest.mark.slow
def test_webhooks_serve_has_its_health_on_its_own_host(tmp_path: Path) -> None:
    """Where the settings ask for health: the address of ``[http] listen`` is that of ``dimesh run``."""
    listen, port = free_port(), free_port()
    source = (
        "[[sources]]\nname = 'billing'\ndriver = 'stripe'\nobjects = ['customer']\n"
        "options = { api_key = 'sk_test_sandbox', webhook_secrets = ['whsec_x'], url = 'http://127.0.0.1:1' }\n"
    )
    (tmp_path / "dimesh.toml").write_text(f"[http]\nlisten = '127.0.0.1:{listen}'\n{source}")
    with running(tmp_path, "webhooks", "serve", "--port", str(port)) as process:
        eventually(lambda: get(port, "/readyz")[0] == 200)
        assert get(port, "/healthz") == (200, "alive\n")
        assert "dimesh_ready 1\n" in get(port, "/metrics")[1]
        assert get(port, "/webhooks/billing", "POST")[0] == 400  # without a signature
        assert get(listen, "/healthz")[0] == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == ExitCode.OK
    (tmp_path / "dimesh.toml").write_text(source)
    with running(tmp_path, "webhooks", "serve", "--port", str(port)):
        eventually(lambda: get(port, "/webhooks/billing", "POST")[0] == 400)
        assert [get(port, path)[0] for path in ("/healthz", "/readyz", "/metrics")] == [404] * 3
