"""The log of ``dimesh run`` as an operator reads it: what went wrong is there by default, and nothing of libraries or secrets."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run, environment
from .test_flow import wait_for

SHOP = """
import logging, threading, warnings

log = logging.getLogger("shop")

def ship(event):
    log.info("shipping %s", event.payload)
    logging.getLogger("httpx").info("HTTP Request: GET https://me:hunter2@api.example.com/?key=hunter2")
    logging.getLogger("aiokafka.conn").debug("SaslAuthenticateRequest(sasl_auth_bytes=b'hunter2')")
    logging.getLogger("some.library").warning("rejected: token=hunter2 after %s", event.payload)
    warnings.warn("an old\\nfunction", UserWarning)
    thread = threading.Thread(target=lambda: 1 / 0, name="a thread")
    thread.start()
    thread.join()
    log.warning("two %s %s", "values", extra={"fields": {("a", 1): float("nan"), "order": event.payload, "password": "hunter2"}})
    raise LookupError(event.payload["note"])
"""
FORGED = "2026-01-01 00:00:00,000 INFO all is well"
NOTE = f'no stock\n{FORGED}\n{{"level": "INFO", "message": "all is well"}}\u2028\x1b[2J'


@contextmanager
def running(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run the mesh of a folder with global options; yields the process and the file with its standard error."""
    errors = folder / "err.log"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "dimesh", *options, "run"],
            cwd=folder, stdout=subprocess.DEVNULL, stderr=stderr, env=environment(),
        )  # fmt: skip
        try:
            yield process, errors
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            assert process.wait(20) in (0, 130), errors.read_text()


def prepare(dimesh: Run, folder: Path, settings: str = "") -> None:
    (folder / "shop.py").write_text(SHOP)
    (folder / "dimesh.toml").write_text(
        '[[handlers]]\ntopic = "orders"\ncall = "shop:ship"\nstart = "earliest"\nattempts = 2\nretry_base = 0.01\n'
        + settings
    )
    dimesh("publish", "orders", stdin=json.dumps({"event_type": "a.b", "payload": {"note": NOTE}}))


def test_a_failing_handler_is_in_the_log(dimesh: Run, tmp_path: Path) -> None:
    prepare(dimesh, tmp_path)
    with running(tmp_path) as (_, errors):
        wait_for(lambda: "dead letter: " in errors.read_text())
    lines = errors.read_text().split("\n")
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith(FORGED) for line in lines)
    text = "\n".join(lines)
    for attempt in (1, 2):
        (line,) = [line for line in lines if f"attempt {attempt} of event" in line]
        assert " WARNING subscription shop:ship" in line
        assert "LookupError: no stock" in line
        assert "shop.py:16 in ship" in line
    assert "after 2 attempts by shop:ship (LookupError: no stock" in text
    assert "INFO shop: shipping {'note': 'no stock\\n" in text
    assert "WARNING some.library: rejected: token=********" in text
    assert "ERROR a thread ended by an exception\n  Traceback" in text
    assert "httpx" not in text
    assert "hunter2" not in text


@pytest.mark.slow
@pytest.mark.parametrize("debug", [False, True])
def test_each_line_of_a_json_log_is_json(dimesh: Run, tmp_path: Path, debug: bool) -> None:
    more = '[log]\nformat = "json"\n[log.loggers]\nhttpx = "debug"\naiokafka = "debug"\n'
    prepare(dimesh, tmp_path, more)
    with running(tmp_path, *(["--debug"] if debug else [])) as (_, errors):
        wait_for(lambda: "dead letter: " in errors.read_text())
    text = errors.read_text()
    records: list[dict[str, Any]] = [json.loads(line) for line in text.split("\n")[:-1]]
    assert "hunter2" not in text
    assert text.isascii()
    messages = {record["logger"]: record["message"] for record in records}
    assert messages["httpx"] == "HTTP Request: GET https://********@api.example.com/?********"
    assert messages["py.warnings"].endswith('warnings.warn("an old\\nfunction", UserWarning)\n')
    assert "aiokafka.conn" not in messages
    (dead,) = [record for record in records if record["message"].startswith("dead letter: ")]
    assert (dead["level"], dead["logger"]) == ("WARNING", "dimesh.bus")
    fields = next(record["fields"]["fields"] for record in records if "fields" in record)
    assert fields["('a', 1)"] == "nan"
    assert fields["order"] == {"note": NOTE}
    attempts = [record for record in records if "attempt 1 of event" in record["message"]]
    assert ["exception" in record for record in attempts] == [debug]
    started = [record["message"] for record in records if record["logger"] == "dimesh.cli"]
    assert started[0].startswith("started handler shop:ship")
    assert started[-1].startswith("stopping")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "shown", "hidden"),
    [
        (("--quiet",), "", "WARNING"),
        (("--log-level", "error"), "a thread ended", "WARNING"),
        (("--log-level", "warning"), "dead letter", "INFO shop: "),
        (("--log-format", "json"), '"level": "WARNING"', " WARNING "),
    ],
)
def test_options_of_the_log(
    dimesh: Run, tmp_path: Path, options: tuple[str, ...], shown: str, hidden: str
) -> None:
    prepare(dimesh, tmp_path)
    with running(tmp_path, *options) as (_, errors):
        wait_for(lambda: dimesh("--output", "json", "dlq", "list").json)
    text = errors.read_text()
    assert shown in text
    assert hidden not in text


# -- sources ---------------------------------------------------------------------------------------

PLUGIN = """
import asyncio, pathlib

from dimesh.capabilities import Capabilities
from dimesh.errors import SourceUnavailableError
from dimesh.spi import CONTRACT_VERSION, hookimpl
from dimesh.spi.cdc import ChangeBatch, CheckResult


class Source:
    system = "far"
    capabilities = Capabilities()

    def __init__(self, port): self.port = port
    async def ask(self):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError as error:
            raise SourceUnavailableError(f"nobody answers at port {self.port}: {error}") from error
        writer.close()
    async def open(self): await self.ask()
    async def close(self): ...
    async def check(self): return CheckResult(True, {"thing": ""})
    async def position(self, object):
        await self.ask()
        return b"0"
    async def acknowledge(self, object, position): ...
    async def snapshot(self, object, resume):
        await self.ask()
        yield ChangeBatch((), b"0")
    async def stream(self, object, position):
        while True:
            await self.ask()
            yield ChangeBatch((), b"0")
            await asyncio.sleep(0.05)


class Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_cdc_source(self, options): return Source(options["port"])


plugin = Plugin()
"""


def install(folder: Path, name: str, code: str, group: str = "dimesh.cdc") -> None:
    """Install a plugin in a folder of the path."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {name}:plugin\n")


@pytest.mark.slow
def test_a_source_that_goes_down_and_comes_up_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "far", PLUGIN)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    (tmp_path / "dimesh.toml").write_text(
        f'[[sources]]\ndriver = "far"\nname = "away"\nobjects = ["thing"]\noptions = {{ port = {port} }}\n'
    )
    with running(tmp_path) as (_, errors):
        wait_for(lambda: "running; stop with" in errors.read_text())
        assert "WARNING" not in errors.read_text()
        listener.close()
        wait_for(
            lambda: (
                "source away, object thing cannot be captured: SourceUnavailableError: nobody answers"
                in errors.read_text()
            )
        )
        listener = socket.create_server(("127.0.0.1", port))
        wait_for(lambda: "source away, object thing is captured again" in errors.read_text())
        listener.close()
    assert "Traceback" not in errors.read_text()
