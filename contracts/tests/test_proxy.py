"""The fault proxy affects connections as documented."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from dimesh_contracts.proxy import FaultProxy
from dimesh_contracts.waiting import deadline


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    """Start a proxy in front of an echo server."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(100_000):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with FaultProxy(server.sockets[0].getsockname()[1]) as made:
        yield made
    server.close()


async def said(proxy: FaultProxy, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(data)
    try:
        return await reader.readexactly(len(data))
    finally:
        writer.close()


async def test_it_passes_everything(proxy: FaultProxy) -> None:
    data = bytes(range(256)) * 4_000
    async with deadline():
        assert await said(proxy, data) == data
    assert proxy.connections == 1


async def test_latency_and_bandwidth(proxy: FaultProxy) -> None:
    proxy.latency = 0.1
    began = time.monotonic()
    assert await said(proxy, b"x") == b"x"
    assert time.monotonic() - began >= 0.2
    proxy.latency = 0.0
    proxy.bandwidth = 100_000
    began = time.monotonic()
    assert len(await said(proxy, b"x" * 20_000)) == 20_000
    assert time.monotonic() - began >= 0.2


async def test_a_cut_holds_everything_back_until_it_heals(proxy: FaultProxy) -> None:
    proxy.cut()
    waiting = asyncio.create_task(said(proxy, b"late"))
    done, _ = await asyncio.wait({waiting}, timeout=0.1)
    assert not done
    proxy.heal()
    async with deadline():
        assert await waiting == b"late"


async def test_a_reset_breaks_connections_and_new_ones_work(proxy: FaultProxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"a")
    async with deadline():
        assert await reader.readexactly(1) == b"a"
        proxy.reset()
        with pytest.raises(ConnectionError):
            await reader.readexactly(1)
        assert await said(proxy, b"again") == b"again"


async def test_refusing(proxy: FaultProxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionError):
        await said(proxy, b"x")
    await proxy.accept()
    assert await said(proxy, b"x") == b"x"
