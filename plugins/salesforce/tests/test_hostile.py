"""The access token goes to the configured org only, whatever addresses a response contains."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import trustme

from dimesh.clock import SystemClock
from dimesh.errors import CredentialsError, SourceUnavailableError
from dimesh.options import parse_options
from dimesh.sourcekit.addresses import ForeignAddressError
from dimesh_salesforce.client import make_http
from dimesh_salesforce.credentials import Credentials
from dimesh_salesforce.options import SalesforceOptions
from dimesh_salesforce.source import SalesforceSource
from rawserver import RawServer, http

ID = "001000000000001AAA"
IDENTITY = {"organization_id": "00D000000000001EAA", "user_id": "005000000000001AAA"}
DESCRIBED = {"queryable": True, "fields": [{"name": "Id", "type": "id"}, {"name": "Name", "type": "string"}]}


def answer(content: Any, **more: Any) -> bytes:
    return http(json.dumps(content).encode(), **more)


def options(home: RawServer, **more: Any) -> SalesforceOptions:
    given = {"instance_url": str(home.origin), "ledger": "", "retry_for": 0.0, **more}
    return parse_options(SalesforceOptions, given, "source 'salesforce'")


@asynccontextmanager
async def reading(home: RawServer, **more: Any) -> AsyncIterator[SalesforceSource]:
    source = SalesforceSource(options(home, **(more or {"access_token": "t0ken"})), SystemClock())
    await source.open()
    try:
        yield source
    finally:
        await source.close()


def foreign(evil: RawServer) -> list[str]:
    port = evil.origin.port
    return [
        f"http://127.0.0.1:{port}/services/data",
        f"//127.0.0.1:{port}/services/data",
        f"@127.0.0.1:{port}/services/data",
        f":{port}/services/data",
        f".localhost:{port}/services/data",
    ]


async def test_the_next_page_of_a_query() -> None:
    rows = [{"Id": ID}]
    async with RawServer(answer({})).run() as evil:
        for address in foreign(evil):
            page = {"totalSize": 2, "done": False, "records": rows, "nextRecordsUrl": address}
            count = {"totalSize": 1, "done": True, "records": []}
            answers = [answer(content) for content in (IDENTITY, DESCRIBED, count, page)]
            async with RawServer(*answers).run() as home, reading(home) as source:
                with pytest.raises(ForeignAddressError):
                    await anext(source.snapshot("Account", None))
        assert evil.requests == []


async def test_the_instance_of_a_token() -> None:
    async with RawServer(answer(IDENTITY)).run() as evil:
        for instance in (str(evil.origin), "https://evil.example", "https://evil.example\\@127.0.0.1", "x"):
            token = {"access_token": "t0ken", "instance_url": instance}
            async with RawServer(answer(token)).run() as home:
                with pytest.raises(CredentialsError, match="the token is not sent there"):
                    async with reading(home, client_id="app", client_secret="s3cr3t"):
                        pass
        assert evil.requests == []


@pytest.mark.parametrize(
    ("configured", "named", "good"),
    [
        ("https://acme.my.salesforce.com", "https://acme.my.salesforce.com", True),
        ("https://acme.my.salesforce.com", "https://acme.my.salesforce.com:443/", True),
        ("https://acme.my.salesforce.com", "https://na99.salesforce.com", True),
        ("https://acme.my.salesforce.com", "", True),
        ("https://acme.my.salesforce.com", "https://na99.salesforce.com:8443", False),
        ("https://acme.my.salesforce.com", "http://acme.my.salesforce.com", False),
        ("https://acme.my.salesforce.com", "https://salesforce.com.evil.example", False),
        ("https://acme.my.salesforce.com", "https://evilsalesforce.com", False),
        ("https://acme.my.salesforce.com", "https://a:b@na99.salesforce.com", False),
        ("https://acme.my.salesforce.com", "https://acme.my.salesforce.mil", False),
        ("https://proxy.acme.example", "https://acme.my.salesforce.com", False),
        ("https://proxy.acme.example", "https://other.acme.example", False),
    ],
)
def test_hosts_that_an_org_may_move_to(configured: str, named: str, good: bool) -> None:
    given = {"instance_url": configured, "client_id": "app", "client_secret": "s3cr3t", "ledger": ""}
    parsed = parse_options(SalesforceOptions, given, "source 'salesforce'")
    clock = SystemClock()
    credentials = Credentials(parsed, clock, make_http(parsed, clock))
    if good:
        assert credentials._instance_of(named).host.endswith(".salesforce.com")
    else:
        with pytest.raises(CredentialsError, match="the token is not sent there"):
            credentials._instance_of(named)


async def test_redirects() -> None:
    """A redirect of the token request, of the owner request and of a query."""
    async with RawServer(answer(IDENTITY)).run() as evil:
        moved = http(status="307 Temporary", location=f"{evil.origin}/services/oauth2/token")
        async with RawServer(moved).run() as home:
            with pytest.raises(SourceUnavailableError, match="HTTP 307"):
                async with reading(home, client_id="app", client_secret="s3cr3t"):
                    pass
            with pytest.raises(SourceUnavailableError, match="HTTP 307"):
                async with reading(home):
                    pass
        async with RawServer(answer(IDENTITY), moved).run() as home, reading(home) as source:
            with pytest.raises(SourceUnavailableError, match="HTTP 307"):
                await anext(source.snapshot("Account", None))
        assert evil.requests == []


async def test_a_job_and_its_locator_stay_below_their_path() -> None:
    """Both come from a response and become part of an address."""
    count = {"totalSize": 10, "done": True, "records": []}
    newest = {"totalSize": 1, "done": True, "records": [{"Id": ID}]}
    job = "../../../@evil.example/?a=#"
    files = http(b"Id,Name\n", content_type="text/csv", sforce_locator="../@evil.example&x=1#")
    done = http(b"Id,Name\n", content_type="text/csv")
    contents: list[Any] = [IDENTITY, DESCRIBED, count, newest, {"id": job}, {"state": "JobComplete"}]
    answers = [*(answer(content) for content in contents), files, done]
    async with RawServer(*answers).run() as home, reading(home, access_token="t0ken", bulk_above=0) as source:
        async for _ in source.snapshot("Account", None):
            pass
    quoted = "/services/data/v66.0/jobs/query/..%2F..%2F..%2F%40evil.example%2F%3Fa%3D%23"
    paths = [head.split()[1] for head in home.requests]
    assert paths[5].startswith(quoted)
    assert paths[6].startswith(f"{quoted}/results?")
    assert paths[7].startswith(f"{quoted}/results?")
    assert "locator=..%2F%40evil.example%26x%3D1%23" in paths[7]


@pytest.mark.slow
async def test_an_answer_of_an_unreasonable_size() -> None:
    async def endless(writer: Any) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n")
        while True:
            writer.write(b" " * 1_000_000)
            await writer.drain()

    async with RawServer(answer(IDENTITY), endless).run() as home, reading(home) as source:
        with pytest.raises(SourceUnavailableError, match="more than 268,435,456 bytes"):
            await anext(source.snapshot("Account", None))


async def test_the_pubsub_api_is_reached_with_its_own_certificate_authority(tmp_path: Path) -> None:
    authority, file = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    certificate = authority.issue_cert("localhost")
    key, chain = certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes()
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)]))
    await server.start()
    given = {"access_token": "t0ken", "pubsub": f"localhost:{port}"}
    try:
        async with RawServer(answer(IDENTITY)).run() as home:
            for more, status in (({"ca_file": str(file)}, "UNIMPLEMENTED"), ({}, "UNAVAILABLE")):
                async with reading(home, **given, **more) as source:
                    with pytest.raises(SourceUnavailableError, match=status):
                        await source.streaming.topic("/data/AccountChangeEvent")
    finally:
        await server.stop(None)


@pytest.mark.parametrize("name", ["instance_url", "login_url"])
def test_a_login_in_an_address(name: str) -> None:
    given = {"instance_url": "https://acme.my.salesforce.com", "access_token": "t0ken"}
    with pytest.raises(ValueError, match=f"{name} must not contain a login") as failed:
        parse_options(
            SalesforceOptions, {**given, name: "https://ada:s3cr3t@acme.my.salesforce.com"}, "source 'crm'"
        )
    assert "s3cr3t" not in str(failed.value)
