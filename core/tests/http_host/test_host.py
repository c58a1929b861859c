"""Starting, mounting and stopping a host."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from dimesh.errors import ConfigurationError, ListenError
from dimesh.http.host import HttpHost
from dimesh.http.mounts import Mounts
from dimesh.logs.repeats import MOST, RepeatFilter
from dimesh_contracts.waiting import deadline, until

from .conftest import QUICK, App, Serve, connected, post, rest

SLOW = replace(QUICK, header_timeout=60.0, body_timeout=60.0, write_timeout=60.0, keep_alive=60.0)


async def test_applications_are_mounted_by_prefix(serve: Serve) -> None:
    seen: list[tuple[str, str, str]] = []

    def named(name: str):  # type: ignore[no-untyped-def]
        async def app(scope, receive, send):  # type: ignore[no-untyped-def]
            seen.append((name, scope["path"], scope["root_path"]))
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        return app

    mounts = [("/a/b", named("ab")), ("/a", named("a"))]
    async with HttpHost(mounts, port=0, limits=QUICK) as host:
        assert await post(host, "/a/b/c?d") == b"HTTP/1.1 200 OK"
        assert await post(host, "/a") == b"HTTP/1.1 200 OK"
        assert await post(host, "/ab") == b"HTTP/1.1 404 Not Found"
        assert await post(host, "/") == b"HTTP/1.1 404 Not Found"
    assert seen == [("ab", "/a/b/c", "/a/b"), ("a", "/a", "/a")]


@pytest.mark.parametrize("prefix", ["a", "/a/", "/"])
def test_a_malformed_prefix_is_refused(prefix: str, app: App) -> None:
    with pytest.raises(ConfigurationError, match="is not a path to mount at"):
        Mounts([(prefix, app)])
    with pytest.raises(ConfigurationError, match="two applications are mounted at '/a'"):
        Mounts([("/a", app), ("/a", app)])


async def test_an_application_that_fails_stops_nothing(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(scope, receive, send):  # type: ignore[no-untyped-def]
        raise RuntimeError("broken")

    async with HttpHost([("/broken", broken), ("/app", App())], port=0, limits=QUICK) as host:
        for _ in range(50):
            assert await post(host, "/broken") == b"HTTP/1.1 500 Internal Server Error"
        assert await post(host) == b"HTTP/1.1 200 OK"
    assert len([r for r in caplog.records if r.exc_info]) == MOST  # and the log stays small


def test_a_message_that_repeats_is_counted_instead_of_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    passed = []
    repeats = RepeatFilter()
    for _ in range(100):
        record = logging.LogRecord("x", logging.WARNING, "", 0, "refused %s", ("1",), None)
        if repeats.filter(record):
            passed.append(record.getMessage())
    assert passed == ["refused 1"] * MOST
    now += 61
    record = logging.LogRecord("x", logging.WARNING, "", 0, "refused %s", ("2",), None)
    assert repeats.filter(record)
    assert record.getMessage() == "refused 2 (95 more of these were not logged)"


# -- listening --------------------------------------------------------------------------------------


async def test_a_port_in_use_is_an_error_that_names_it(serve: Serve, app: App) -> None:
    host = await serve()
    port = int(host.url.rpartition(":")[2])
    with pytest.raises(ListenError, match=rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use"):
        await serve(port=port)
    with pytest.raises(ListenError, match="cannot listen on 'no such host'"):
        await serve(host="no such host")
    with pytest.raises(ListenError, match=r"cannot listen on 192\.0\.2\.1:0: Cannot assign"):
        await serve(host="192.0.2.1")
    assert await post(host) == b"HTTP/1.1 200 OK"


async def test_every_address_of_a_name_has_the_same_port(serve: Serve) -> None:
    host = await serve(host="")
    ports = {one.getsockname()[1] for one in host._listeners}
    assert len(ports) == 1
    for one in host._listeners:
        address = "::1" if one.family == socket.AF_INET6 else "127.0.0.1"
        _, writer = await asyncio.open_connection(address, *ports)
        writer.transport.abort()


def test_without_uvicorn_the_error_says_how_to_get_it() -> None:
    code = (
        "import asyncio, sys\n"
        "sys.modules['uvicorn'] = None\n"
        "from dimesh.http.host import HttpHost\n"
        "asyncio.run(HttpHost([], port=0).start())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ConfigurationError: serving HTTP needs uvicorn" in done.stderr
    assert "pip install 'dimesh[http]'" in done.stderr


# -- TLS --------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[trustme.CA, Path, Path]:
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    for n, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(tmp_path / "cert.pem", append=n > 0)
    return ca, tmp_path / "cert.pem", tmp_path / "key.pem"


async def test_https_with_files(serve: Serve, certificate: tuple[trustme.CA, Path, Path]) -> None:
    ca, cert, key = certificate
    host = await serve(SLOW, certificate=cert, key=key)
    assert host.url.startswith("https://127.0.0.1:")
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    address = host.url.removeprefix("https://").split(":")
    reader, writer = await asyncio.open_connection(*address, ssl=trusting)
    writer.write(b"POST /app HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.transport.abort()
    # Plain HTTP is refused, and does no harm.
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    async with deadline():
        assert b"HTTP" not in await rest(reader)
    writer.transport.abort()


async def test_a_tls_handshake_has_a_deadline_and_gives_way(
    serve: Serve, certificate: tuple[trustme.CA, Path, Path]
) -> None:
    ca, cert, key = certificate
    host = await serve(QUICK, certificate=cert, key=key)
    address = host.url.removeprefix("https://").split(":")
    reader, writer = await asyncio.open_connection(*address)
    async with asyncio.timeout(3):
        assert await rest(reader) == b""
    writer.transport.abort()
    await until(lambda: len(host._connections) == 0)
    few = await serve(replace(SLOW, connections=3), certificate=cert, key=key)
    address = few.url.removeprefix("https://").split(":")
    silent = [await asyncio.open_connection(*address) for _ in range(10)]
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    async with deadline():
        reader, writer = await asyncio.open_connection(*address, ssl=trusting)
        writer.write(b"POST /app HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        for _, silent_writer in silent:
            silent_writer.transport.abort()
        writer.transport.abort()
        await few.stop()


def test_tls_files_that_cannot_be_used(tmp_path: Path, certificate: tuple[trustme.CA, Path, Path]) -> None:
    _, cert, key = certificate
    other = tmp_path / "other.pem"
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(other)
    text = tmp_path / "text.pem"
    text.write_text("nothing")
    locked = tmp_path / "locked.pem"
    locked.write_bytes(_with_passphrase(key.read_bytes()))
    for given, problem in (
        ({"certificate": tmp_path / "nope.pem"}, "nope.pem cannot be read: No such file"),
        ({"certificate": text, "key": key}, "text.pem and key .*key.pem cannot be used"),
        ({"certificate": cert, "key": other}, "KEY_VALUES_MISMATCH"),
        ({"certificate": cert}, "cannot be used"),
        ({"certificate": cert, "key": locked}, "has a passphrase"),
        ({"key": key}, "key was given without a certificate"),
    ):
        with pytest.raises(ConfigurationError, match=problem):
            HttpHost([], **given)  # type: ignore[arg-type]


def _with_passphrase(key: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


# -- stopping ---------------------------------------------------------------------------------------


async def test_stopping_finishes_what_is_being_handled(serve: Serve, app: App) -> None:
    host = await serve(replace(SLOW, stop_timeout=20.0))
    answer = asyncio.create_task(post(host, "/app/wait"))
    await app.started.wait()
    stopping = asyncio.create_task(host.stop())
    await until(lambda: not host._accepting)
    with pytest.raises(ConnectionRefusedError):
        await post(host)
    app.release.set()
    assert await answer == b"HTTP/1.1 200 OK"
    async with asyncio.timeout(3):
        await stopping


@pytest.mark.parametrize("kind", ["silent", "header", "body", "idle", "handler", "reader"])
@pytest.mark.slow
async def test_no_client_keeps_a_host_from_stopping(serve: Serve, app: App, kind: str) -> None:
    host = await serve(SLOW)
    sent = {
        "silent": b"",
        "header": b"POST /app HT",
        "body": b"POST /app HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123",
        "idle": b"GET /app HTTP/1.1\r\nHost: x\r\n\r\n",
        "handler": b"GET /app/wait HTTP/1.1\r\nHost: x\r\n\r\n",
        "reader": b"GET /app/large HTTP/1.1\r\nHost: x\r\n\r\n",
    }[kind]
    async with connected(host) as (reader, writer):
        reader._limit = 1  # type: ignore[attr-defined]
        writer.write(sent)
        await until(lambda: len(host._connections) == 1)
        if kind in ("idle", "handler", "reader"):
            await until(lambda: len(app.bodies) == 1)
        if kind == "body":
            await until(lambda: len(host._state.tasks) == 1)
        began = time.monotonic()
        await host.stop()
        assert time.monotonic() - began < SLOW.stop_timeout + 2.5
        assert len(host._connections) == 0
        assert not host._state.tasks
