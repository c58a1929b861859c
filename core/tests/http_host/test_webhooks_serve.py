"""``dimesh webhooks serve`` as a process: 1,000 slow connections, TLS, a port in use, and stopping."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from dimesh.cli.exit_codes import ExitCode
from dimesh.mesh import Mesh
from dimesh.ops.records import read_records
from dimesh.settings import load_settings
from dimesh_contracts.waiting import deadline

# A source as a plugin brings it: it is awake as often as its webhook is called.
PLUGIN = """
from dimesh.capabilities import Capabilities
from dimesh.spi import CONTRACT_VERSION, hookimpl
from dimesh.spi.cdc import ChangeBatch, CheckResult


class Source:
    system = "hooked"
    capabilities = Capabilities()

    async def open(self): ...
    async def close(self): ...
    async def check(self): return CheckResult(True, {"thing": ""})
    async def position(self, object): return b"0"
    async def acknowledge(self, object, position): ...
    async def snapshot(self, object, resume): yield ChangeBatch((), b"0")
    async def stream(self, object, position): yield ChangeBatch((), b"0")
    def hint(self, kind):
        with open("hints.txt", "a") as file:
            file.write(kind + "\\n")

    def webhooks(self, hint, path):
        async def app(scope, receive, send):
            body, more = b"", True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body, more = body + message.get("body", b""), message.get("more_body", False)
            hint(body.decode())
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x" * 20_000_000 if body == b"large" else b"ok"})
        return app


class Plugin:
    contract_version = CONTRACT_VERSION

    @hookimpl
    def dimesh_cdc_source(self, options): return Source()


class Page:
    @hookimpl
    def dimesh_http(self, context):
        async def page(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": f"{context.mesh} at {scope['root_path']}".encode()})
        return [("/page", page)]


plugin = Plugin()
page = Page()
"""


@pytest.fixture
def mesh(tmp_path: Path) -> Path:
    """A folder with a mesh whose only source receives webhooks."""
    (tmp_path / "hooked.py").write_text(PLUGIN)
    info = tmp_path / "hooked-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hooked\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[dimesh.cdc]\nhooked = hooked:plugin\n[dimesh.hooks]\nhooked-page = hooked:page\n"
    )
    bus = f'[bus]\ndriver = "sqlite"\n[bus.options]\npath = "{tmp_path.as_posix()}/mesh.db"\n'
    (tmp_path / "without.toml").write_text(bus)
    (tmp_path / "dimesh.toml").write_text(
        bus + '[[sources]]\ndriver = "hooked"\nname = "hooks"\nobjects = ["thing"]\n'
    )
    return tmp_path


class Server:
    def __init__(self, process: asyncio.subprocess.Process, address: str, errors: Path) -> None:
        self.process = process
        scheme, _, where = address.partition("://")
        self.scheme = scheme
        self.where = where.split(":")
        self.errors = errors

    async def post(self, body: bytes, context: ssl.SSLContext | None = None) -> tuple[bytes, float]:
        """The status line, and how long the whole request took."""
        began = time.monotonic()
        reader, writer = await asyncio.open_connection(*self.where, ssl=context)
        writer.write(
            b"POST /webhooks/hooks HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        status = await reader.readline()
        writer.transport.abort()
        return status.rstrip(), time.monotonic() - began

    async def stop(self) -> float:
        """End it as a service manager does; returns the seconds that this took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        async with deadline():
            assert await self.process.wait() == 0, self.errors.read_text()
        return time.monotonic() - began


Serve = Callable[..., Any]
LIMIT_FILES = (
    "import os, resource, sys; most = int(sys.argv[1]); "
    "resource.setrlimit(resource.RLIMIT_NOFILE, (most, most)); os.execv(sys.argv[2], sys.argv[2:])"
)
"""Not by ``preexec_fn``, for which Python forks this process: gRPC, if an earlier test used it, then writes to standard error."""


@pytest.fixture
async def serve(mesh: Path) -> AsyncIterator[Serve]:
    running: list[asyncio.subprocess.Process] = []

    async def start(*options: str, files: int | None = None) -> Server:
        errors = mesh / "errors.txt"
        with errors.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *([] if files is None else [sys.executable, "-c", LIMIT_FILES, str(files)]),
                *(sys.executable, "-m", "dimesh", "--output", "json", "webhooks", "serve", "--port", "0"),
                *options,
                cwd=mesh,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": str(mesh)},
            )
        running.append(process)
        assert process.stdout is not None
        async with deadline():
            line = await process.stdout.readline()
        assert line, errors.read_text()
        printed = json.loads(line)
        assert printed["paths"] == {"/webhooks/hooks": "hooks"}
        return Server(process, printed["address"], errors)

    yield start
    for process in running:
        if process.returncode is None:
            process.kill()
        async with deadline():
            await process.communicate()


@pytest.fixture
def many_files() -> Any:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


SLOW = (
    b"",
    b"POST /webhooks/hooks HTTP/1.1\r\nHost:",
    b"POST /webhooks/hooks HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
)
"""What slow clients send: nothing, half a header, half a body."""


@pytest.mark.parametrize("files", [None, 128], ids=["usual limit of files", "128 files"])
@pytest.mark.slow
async def test_1000_slow_connections_do_not_delay_a_webhook(
    serve: Serve, mesh: Path, many_files: None, files: int | None
) -> None:
    """Neither where the process may open files for all of them, nor where it may open far fewer."""
    server = await serve(files=files)
    with ExitStack() as stack:
        for n in range(1_000):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", int(server.where[1])), 20))
            slow.sendall(SLOW[n % 3])
        # The first one waits until the connections before it are accepted.
        assert (await server.post(b"first"))[0] == b"HTTP/1.1 200 OK"
        for n in range(3):
            status, seconds = await server.post(b"%d" % n)
            assert status == b"HTTP/1.1 200 OK"
            assert seconds < 1.0
        assert await server.stop() < 5.0 + 3.0
    assert server.errors.stat().st_size < 10_000, "the log has grown with the connections"
    # Each webhook has become a wake-up on the bus.
    async with Mesh(load_settings(mesh / "without.toml").settings) as reading:
        kinds = [d.record.event.payload["kind"] async for d in read_records(reading.bus, "dimesh.wakeups")]
    assert kinds == ["first", "0", "1", "2"]


@pytest.mark.slow
async def test_pages_of_plugins_are_mounted_beside_the_webhooks(serve: Serve) -> None:
    server = await serve()
    reader, writer = await asyncio.open_connection(*server.where)
    writer.write(b"GET /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    async with deadline():
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"mesh at /page" in answer
    writer.close()
    await server.stop()


@pytest.mark.parametrize("kind", ["an unfinished request", "a reader that never reads"])
@pytest.mark.slow
async def test_no_client_keeps_it_from_ending(serve: Serve, kind: str) -> None:
    server = await serve("--stop-timeout", "0.5")
    client = socket.create_connection(("127.0.0.1", int(server.where[1])))
    if kind == "an unfinished request":
        client.sendall(SLOW[2])
    else:
        client.sendall(SLOW[2].replace(b"100", b"5")[:-1] + b"large")
    status, _ = await server.post(b"x")
    assert status == b"HTTP/1.1 200 OK"
    assert await server.stop() < 0.5 + 4.0
    client.close()


@pytest.mark.slow
async def test_https_and_a_port_in_use(serve: Serve, mesh: Path) -> None:
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(mesh / "both.pem")
    server = await serve("--tls-cert", "both.pem")
    assert server.scheme == "https"
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    assert (await server.post(b"x", trusting))[0] == b"HTTP/1.1 200 OK"
    for options, code, problem in (
        (["--port", server.where[1]], ExitCode.UNAVAILABLE, "Address already in use; choose another --port"),
        (["--port", "70000"], ExitCode.USAGE, "Invalid value for '--port'"),
        (["--tls-cert", "nope.pem"], ExitCode.CONFIGURATION, "nope.pem cannot be read"),
        (["--body-timeout", "-1"], ExitCode.CONFIGURATION, "body_timeout must be positive"),
    ):
        other = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dimesh", "webhooks", "serve", *options),
            cwd=mesh,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(mesh)},
        )
        async with deadline():
            _, text = await other.communicate()
        assert (other.returncode, problem in text.decode()) == (code, True), text.decode()
        assert b"Traceback" not in text
    assert await server.stop() < 8.0


@pytest.mark.slow
@pytest.mark.parametrize("command", [["run"], ["cdc", "run"], ["cdc", "run", "hooks"]], ids=" ".join)
async def test_dimesh_run_serves_webhooks_and_pages_beside_its_health(mesh: Path, command: list[str]) -> None:
    with (mesh / "dimesh.toml").open("a") as file:
        file.write('[[sources]]\ndriver = "hooked"\nname = "other"\nobjects = ["thing"]\n')
        file.write('[http]\nlisten = "127.0.0.1:0"\n')
    with (mesh / "errors.txt").open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dimesh", "--output", "json", *command),
            cwd=mesh,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, "PYTHONPATH": str(mesh)},
        )
    assert process.stdout is not None
    async with deadline():
        address = json.loads(await process.stdout.readline())["address"]
    server = Server(process, address, mesh / "errors.txt")
    assert (await server.post(b"now"))[0] == b"HTTP/1.1 200 OK"
    pages = {}
    for path in ("/page", "/healthz", "/readyz"):
        reader, writer = await asyncio.open_connection(*server.where)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        async with deadline():
            pages[path] = await reader.read()
        writer.close()
    assert b"mesh at /page" in pages["/page"]
    assert pages["/healthz"].endswith(b"alive\n")
    assert b'"ready": true' in pages["/readyz"]
    hints = mesh / "hints.txt"
    async with deadline():
        while not hints.exists():
            await asyncio.sleep(0.01)
    assert hints.read_text() == "now\n"  # it woke the source, and not the other one
    await server.stop()
    async with Mesh(load_settings(mesh / "without.toml").settings) as reading:
        kinds = [d.record.event.payload["kind"] async for d in read_records(reading.bus, "dimesh.wakeups")]
    assert kinds == ["now"]
