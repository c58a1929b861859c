"""The HTTP client of sources, against servers that answer badly or with intent."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from dimesh.clock import ManualClock, SystemClock
from dimesh.errors import ConfigurationError, SourceUnavailableError
from dimesh.sourcekit.addresses import ForeignAddressError, Origin
from dimesh.sourcekit.bodies import read_body
from dimesh.sourcekit.budget import Priority
from dimesh.sourcekit.http import Answer, Retry, SourceClient, seconds
from dimesh_contracts.waiting import deadline
from rawserver import RawServer, http

from .conftest import client

MB = 1_000_000
TOKEN = {"authorization": "Bearer t0ken"}


def judge(answer: Answer, about: str) -> Retry | None:
    if answer.status != 200:
        return Retry(f"HTTP {answer.status}", seconds(answer.headers.get("retry-after")))
    answer.json()
    return None


async def get(made: SourceClient, origin: Origin, address: str = "/rows") -> Any:
    answer = await made.request("GET", origin, address, Priority.STREAM, "rows", judge, headers=TOKEN)
    return answer.json()


# -- where credentials go ----------------------------------------------------------------------------


async def test_an_address_of_another_host_is_not_asked() -> None:
    async with RawServer(http()).run() as home, RawServer(http()).run() as evil, client() as made:
        for address in (
            f"{evil.origin}/rows",
            f"//127.0.0.1:{evil.origin.port}/rows",
            f"@127.0.0.1:{evil.origin.port}/",
        ):
            with pytest.raises(ForeignAddressError):
                await get(made, home.origin, address)
        assert await get(made, home.origin, f"{home.origin}/rows?page=2") == {}
    assert evil.requests == []
    assert [head.split()[1] for head in home.requests] == ["/rows?page=2"]


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"]
)
async def test_a_redirect_is_not_followed(status: str) -> None:
    async with (
        RawServer(http()).run() as evil,
        client() as made,
        RawServer(http(status=status, location=f"{evil.origin}/rows")).run() as home,
    ):
        with pytest.raises(
            SourceUnavailableError, match=f"Acme could not be read for rows: HTTP {status[:3]}"
        ):
            await get(made, home.origin)
    assert evil.requests == []
    assert len(home.requests) == 1


async def test_cookies_are_not_kept() -> None:
    async with RawServer(http(set_cookie="a=b; Path=/")).run() as home, client() as made:
        for _ in range(2):
            await get(made, home.origin)
    assert "cookie" not in home.requests[1].lower()


# -- size --------------------------------------------------------------------------------------------


def bomb(inflated: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    head = packer.compress(b" ") + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(b" " * MB) + packer.flush(zlib.Z_FULL_FLUSH)  # may be repeated
    return head + block * (inflated // MB)


async def test_a_small_answer_that_inflates_to_a_gigabyte() -> None:
    """It is refused as soon as the limit is passed, and memory holds little more than the limit."""
    packed = bomb(1_000 * MB)
    assert len(packed) < 1.1 * MB
    async with (
        RawServer(http(packed, content_encoding="gzip")).run() as home,
        client(max_bytes=5 * MB) as made,
    ):
        tracemalloc.start()
        try:
            with pytest.raises(SourceUnavailableError, match="answered rows with more than 5,000,000 bytes"):
                await get(made, home.origin)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 5 * MB + 4 * MB


async def test_an_answer_that_is_too_large_is_not_read_to_its_end() -> None:
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n")
        while True:
            writer.write(b" " * 65_536)
            await writer.drain()
            sent += 65_536

    async with RawServer(endless).run() as home, client() as made, deadline():
        with pytest.raises(SourceUnavailableError, match="more than 1,000,000 bytes: the rest was not read"):
            await get(made, home.origin)
    assert sent < 50 * MB


async def test_others_have_their_turn_while_a_small_piece_inflates() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def one_piece() -> AsyncIterator[bytes]:
        yield gzip.compress(b" " * 20 * MB)

    running = asyncio.create_task(others())
    assert len(await read_body(one_piece(), "gzip", 30 * MB)) == 20 * MB
    running.cancel()
    assert turns > 50


async def test_compressed_blocks_that_inflate_to_nothing_are_counted() -> None:
    """An endless run of empty blocks never reaches the limit of the inflated body."""
    empty = zlib.compressobj(wbits=31)
    start = empty.flush(zlib.Z_SYNC_FLUSH)
    block = empty.flush(zlib.Z_FULL_FLUSH) * 10_000

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 100000000000\r\n\r\n" + start
        )
        while True:
            writer.write(block)
            await writer.drain()

    async with RawServer(endless).run() as home, client() as made, deadline():
        with pytest.raises(SourceUnavailableError, match="more than 1,000,000 bytes"):
            await get(made, home.origin)


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("identity", bytes),
    ],
)
async def test_encodings(encoding: str, pack: Any) -> None:
    async with RawServer(http(pack(b'{"a": 1}'), content_encoding=encoding)).run() as home, client() as made:
        assert await get(made, home.origin) == {"a": 1}


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (http(b"x", content_encoding="br"), "content encoding 'br', which was not asked for"),
        (http(b"x", content_encoding="gzip, gzip"), "content encoding 'gzip, gzip'"),
        (http(b"nonsense", content_encoding="gzip"), "the answer is damaged"),
        (http(gzip.compress(b"{}", mtime=0)[:-4], content_encoding="gzip"), "the answer is cut off"),
        (http(gzip.compress(b"{}", mtime=0) + b"more", content_encoding="gzip"), "bytes follow the end"),
        (http(b"{}")[:-1] + b"", "no complete answer|cut|ReadError|RemoteProtocolError"),
        (http(b"<html>"), "an answer that is not JSON"),
        (http(b'{"a": NaN}'), "NaN is not JSON"),
        (http(b"[" * 200_000), "nested too deeply"),
        (http(b"1" * 10_000), "an answer that is not JSON"),
    ],
)
async def test_answers_that_cannot_be_read(answer: bytes, problem: str) -> None:
    async with RawServer(answer).run() as home, client(timeout=1.0) as made:
        with pytest.raises(SourceUnavailableError, match=problem):
            await get(made, home.origin)


# -- time --------------------------------------------------------------------------------------------


async def test_an_answer_that_drips_ends_at_the_time_limit() -> None:
    """One byte after the other: no pause between two bytes is long, and the answer never ends."""
    clock = ManualClock()
    dripping = asyncio.Event()

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        for _ in range(1_000_000):
            writer.write(b" ")
            await writer.drain()
            dripping.set()
            await asyncio.sleep(0.005)

    async with RawServer(drip).run() as home, client(clock, timeout=30.0) as made, deadline():
        reading = asyncio.create_task(get(made, home.origin))
        await dripping.wait()
        await clock.advance(29.9)
        assert not reading.done()
        await clock.advance(0.2)
        with pytest.raises(SourceUnavailableError, match="no complete answer within 30 s"):
            await reading


async def test_headers_that_drip_end_at_the_time_limit() -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nx: ")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.005)

    async with RawServer(drip).run() as home, client(timeout=0.5) as made, deadline(5.0):
        with pytest.raises(SourceUnavailableError, match=r"no complete answer within 0\.5 s"):
            await get(made, home.origin)


async def test_retries_end_at_the_deadline() -> None:
    async with (
        RawServer(http(status="503 Down")).run() as home,
        client(retry_for=1.0) as made,
        deadline(10.0),
    ):
        with pytest.raises(SourceUnavailableError, match="HTTP 503"):
            await get(made, home.origin)
        assert 2 <= len(home.requests) <= 6
        assert made.budget.requests == len(home.requests)


async def test_what_passes_is_retried() -> None:
    answers = [http(status="503 Down"), http(b"<html>"), http(b'{"a": 1}')]
    async with RawServer(*answers).run() as home, client(retry_for=30.0) as made, deadline():
        assert await get(made, home.origin) == {"a": 1}
        assert len(home.requests) == 3


async def test_the_pause_that_an_answer_asks_for() -> None:
    clock = SystemClock()
    answers = [http(status="429 Slow", retry_after="0.6"), http()]
    async with RawServer(*answers).run() as home, client(clock, retry_for=30.0) as made, deadline():
        began = clock.monotonic()
        await get(made, home.origin)
        assert clock.monotonic() - began >= 0.6
    async with (
        RawServer(http(status="429 Slow", retry_after="3600")).run() as home,
        client(retry_for=30.0) as made,
        deadline(),
    ):
        with pytest.raises(SourceUnavailableError, match="HTTP 429"):
            await get(made, home.origin)


@pytest.mark.parametrize(
    ("text", "value"), [("2", 2.0), ("0.5", 0.5), ("-1", 0.0), ("nan", 0.0), ("soon", 0.0), (None, 0.0)]
)
def test_seconds_of_a_header(text: str | None, value: float) -> None:
    assert seconds(text) == value


# -- certificates ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


async def test_a_certificate_of_an_own_authority(authority: trustme.CA, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    async with RawServer(http()).run(server_context(authority)) as home:
        async with client(ca_file=str(file)) as made:
            assert await get(made, home.origin) == {}
        requests = len(home.requests)
        trustme.CA().cert_pem.write_to_path(str(file))
        for options in ({}, {"ca_file": str(file)}):
            async with client(**options) as made:
                with pytest.raises(SourceUnavailableError, match="certificate verify failed"):
                    await get(made, home.origin)
        assert len(home.requests) == requests


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"\xff\xfe"])
async def test_a_file_without_certificates(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="ca_file"):
        async with client(ca_file=str(file)):
            pass
