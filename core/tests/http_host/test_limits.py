"""Clients that are slow, silent or too large, and a host that serves the others all the same."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from dimesh.errors import ConfigurationError
from dimesh.http.limits import HttpLimits, affordable_connections
from dimesh_contracts.waiting import deadline, until

from .conftest import QUICK, App, Serve, connected, post, rest

HEAD = b"POST /app HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"


async def closed_within(seconds: float, reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(seconds):
        return await rest(reader)


@pytest.mark.parametrize("sent", [b"", b"POST /app HTTP/1.1\r\nHost:", HEAD[:-2]])
async def test_a_client_that_sends_no_whole_header_is_dropped(serve: Serve, sent: bytes) -> None:
    host = await serve(replace(QUICK, body_timeout=60.0, keep_alive=60.0))
    async with connected(host) as (reader, writer):
        writer.write(sent)
        assert await closed_within(3, reader) == b""


async def drip(writer: asyncio.StreamWriter, text: bytes, pause: float = 0.05) -> None:
    for n in range(len(text)):
        writer.write(text[n : n + 1])
        await asyncio.sleep(pause)


async def test_a_header_that_drips_is_dropped_and_not_renewed_by_each_byte(serve: Serve) -> None:
    host = await serve(replace(QUICK, body_timeout=60.0, keep_alive=60.0))
    async with connected(host) as (reader, writer):
        dripping = asyncio.create_task(drip(writer, HEAD))
        assert await closed_within(3, reader) == b""
        dripping.cancel()


async def test_the_next_header_of_a_connection_has_the_same_deadline(serve: Serve) -> None:
    host = await serve(replace(QUICK, body_timeout=60.0, keep_alive=60.0))
    async with connected(host) as (reader, writer):
        writer.write(HEAD + b"0123456789")
        assert await reader.readuntil(b"ok") != b""
        dripping = asyncio.create_task(drip(writer, HEAD))
        await closed_within(3, reader)
        dripping.cancel()


async def test_an_idle_connection_is_closed(serve: Serve) -> None:
    host = await serve(replace(QUICK, header_timeout=60.0, body_timeout=60.0))
    async with connected(host) as (reader, writer):
        writer.write(HEAD + b"0123456789")
        assert b" 200 " in await closed_within(3, reader)


@pytest.mark.parametrize("drips", [False, True])
async def test_a_body_that_does_not_arrive_in_time_is_408(serve: Serve, app: App, drips: bool) -> None:
    host = await serve(replace(QUICK, header_timeout=60.0, keep_alive=60.0))
    async with connected(host) as (reader, writer):
        writer.write(HEAD.replace(b"10", b"1000"))
        sending = asyncio.create_task(drip(writer, b"x" * 999 if drips else b"x"))
        assert (await closed_within(3, reader)).startswith(b"HTTP/1.1 408 ")
        sending.cancel()
    await until(lambda: app.disconnected == 1)
    assert app.bodies == []


async def test_a_body_that_is_declared_too_large_is_413_before_it_is_read(serve: Serve, app: App) -> None:
    host = await serve(replace(QUICK, body_size=100))
    async with connected(host) as (reader, writer):
        writer.write(HEAD.replace(b"10", b"101"))
        async with asyncio.timeout(0.5):  # at once, and not after the body
            assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    assert app.bodies == []
    assert await post(host, body=b"x" * 100) == b"HTTP/1.1 200 OK"


async def test_a_body_of_unknown_size_is_413_as_soon_as_it_is_too_large(serve: Serve, app: App) -> None:
    """And a client that is still sending sees that answer, not a reset connection."""
    host = await serve(replace(QUICK, body_size=100_000))
    async with connected(host) as (reader, writer):
        writer.write(b"POST /app HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        async with deadline():
            for _ in range(100):
                writer.write(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            assert (await rest(reader)).startswith(b"HTTP/1.1 413 ")
    await until(lambda: app.disconnected == 1)
    assert app.bodies == []


async def test_a_header_that_is_too_large_is_refused(serve: Serve) -> None:
    host = await serve(replace(QUICK, header_timeout=60.0))
    async with connected(host) as (reader, writer):
        writer.write(b"GET /app HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000)
        assert (await closed_within(3, reader)).startswith(b"HTTP/1.1 400 ")


async def test_a_client_that_does_not_read_is_dropped(serve: Serve, app: App) -> None:
    host = await serve(replace(QUICK, keep_alive=60.0))
    async with connected(host) as (reader, writer):
        reader._limit = 1  # type: ignore[attr-defined]  # so that the client's transport stops reading, too
        writer.write(HEAD.replace(b"/app", b"/app/large") + b"0123456789")
        await until(lambda: len(app.bodies) == 1)
        await until(lambda: len(host._connections) == 0)
        assert len(await closed_within(5, reader)) < 20_000_000


@pytest.mark.slow
async def test_a_slow_reader_that_goes_on_reading_gets_all_of_it(serve: Serve) -> None:
    """The time-out is for progress, not for the whole response."""
    host = await serve(QUICK)
    async with connected(host) as (reader, writer):
        writer.write(HEAD.replace(b"/app", b"/app/large") + b"0123456789")
        found = 0
        began = time.monotonic()
        async with deadline():
            while found < 20_000_000:
                found += len(await reader.read(1_000_000))
                await asyncio.sleep(0.02)
        assert time.monotonic() - began > QUICK.write_timeout


# -- many connections -------------------------------------------------------------------------------


async def test_the_longest_waiting_connection_gives_way_to_a_new_one(serve: Serve, app: App) -> None:
    host = await serve(HttpLimits(connections=5))
    async with AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(connected(host)) for _ in range(5)]
        await until(lambda: len(host._connections) == 5)
        assert await post(host) == b"HTTP/1.1 200 OK"
        assert await closed_within(3, silent[0][0]) == b""
        # The others are still open: each is served when it sends its request.
        for reader, writer in silent[2:]:
            writer.write(HEAD + b"0123456789")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")


async def test_a_request_being_handled_gives_way_to_nothing(serve: Serve, app: App) -> None:
    host = await serve(HttpLimits(connections=3))
    async with AsyncExitStack() as stack:
        busy = [await stack.enter_async_context(connected(host)) for _ in range(3)]
        for _, writer in busy:
            writer.write(HEAD.replace(b"/app", b"/app/wait") + b"0123456789")
        await until(lambda: len(app.bodies) == 3)
        waiting = asyncio.create_task(post(host))
        _, pending = await asyncio.wait([waiting], timeout=0.2)
        assert pending  # it gets its turn when one of them is answered
        app.release.set()
        for reader, _ in busy:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        async with deadline():
            assert await waiting == b"HTTP/1.1 200 OK"


@pytest.fixture
def few_files() -> Iterator[None]:
    """A process whose limit of open files cannot be raised much."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_of_open_files_is_raised_as_needed(few_files: None) -> None:
    assert affordable_connections(100) == 100
    before = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert affordable_connections(1_000) == 1_000
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > max(before, 1_000)


@pytest.mark.parametrize("wrong", [0, -1.0, float("inf"), float("nan")])
def test_a_limit_must_be_positive(wrong: float) -> None:
    with pytest.raises(ConfigurationError, match="body_timeout must be positive"):
        HttpLimits(body_timeout=wrong)
