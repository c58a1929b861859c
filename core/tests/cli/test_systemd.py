"""``dimesh run`` and the other commands that run until they are stopped, under a service manager that speaks the protocol of sd_notify(3), on a real socket."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dimesh.systemd import ServiceManager

from .conftest import environment


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "cdc run", "webhooks serve --port 0"])
def test_a_command_reports_that_it_is_ready_alive_and_stopping(tmp_path: Path, command: str) -> None:
    (tmp_path / "shop.py").write_text("def ship(event):\n    pass\n")
    (tmp_path / "dimesh.toml").write_text(
        '[[handlers]]\ntopic = "orders"\ncall = "shop:ship"\n'
        '[[sources]]\nname = "billing"\ndriver = "stripe"\nobjects = ["customer"]\n'
        "options = { api_key = 'sk_test_sandbox', webhook_secrets = ['whsec_x'], url = 'http://127.0.0.1:1' }\n"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        process = subprocess.Popen(
            [sys.executable, "-m", "dimesh", *command.split()],
            cwd=tmp_path,
            stderr=subprocess.DEVNULL,
            env={**environment(), "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"},
        )
        try:
            got: list[bytes] = []
            while got.count(b"WATCHDOG=1") < 3 or b"READY=1" not in got:
                got.append(manager.recv(100))
            process.send_signal(signal.SIGTERM)
            while b"STOPPING=1" not in got:
                got.append(manager.recv(100))
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
    assert set(got) == {b"WATCHDOG=1", b"READY=1", b"STOPPING=1"}
    assert got.index(b"READY=1") < got.index(b"STOPPING=1")


async def test_an_abstract_socket_and_the_watchdog_of_another_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"@dimesh-{tmp_path}"[:100]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:])
        manager.settimeout(10)
        async with ServiceManager(
            {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
        ) as service:
            service.ready()
            service.stopping()
        assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"STOPPING=1"]
    ServiceManager({}).ready()  # nobody listens, and nothing is sent
    assert not caplog.records
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    assert "did not get READY=1" in caplog.text
