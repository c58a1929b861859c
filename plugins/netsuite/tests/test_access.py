"""Credentials, overload in its disguises, redirects, and the check of permissions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from dimesh import ConfigurationError, EventBusFactory, NetSuiteCDCConnector
from dimesh.errors import CredentialsError, SourceUnavailableError
from dimesh.options import parse_options
from dimesh.sourcekit.addresses import Origin
from dimesh_contracts.waiting import until
from dimesh_netsuite.client import moved_to
from dimesh_netsuite.options import NetSuiteOptions
from dimesh_netsuite.sandbox import ACCOUNT, NetSuiteSandbox
from dimesh_netsuite.source import NetSuiteSource
from rawserver import RawServer, http

from .helpers import following, listed

NewSource = Callable[..., NetSuiteSource]
QUERY = "/services/rest/query"


def pem(key: Any) -> str:
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


@pytest.mark.parametrize("algorithm", [None, "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"])
async def test_every_algorithm(
    sandbox: NetSuiteSandbox, new_source: NewSource, algorithm: str | None
) -> None:
    curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    curve = curves.get(algorithm or "")
    key: Any = ec.generate_private_key(curve) if curve else rsa.generate_private_key(65_537, 2_048)
    sandbox.security.certificates = {"mine": key.public_key()}
    source = new_source(private_key=pem(key), certificate_id="mine", algorithm=algorithm)
    await source.open()
    if curve:  # the algorithm follows from the key
        await new_source(private_key=pem(key), certificate_id="mine").open()


async def test_a_private_key_in_a_file(
    sandbox: NetSuiteSandbox, new_source: NewSource, tmp_path: Path
) -> None:
    (tmp_path / "key.pem").write_text(sandbox.security.private_key())
    await new_source(private_key=None, private_key_file=str(tmp_path / "key.pem")).open()
    with pytest.raises(ConfigurationError, match="private_key_file cannot be read"):
        await new_source(private_key=None, private_key_file=str(tmp_path / "none.pem")).open()


async def test_credentials_that_are_wrong(sandbox: NetSuiteSandbox, new_source: NewSource) -> None:
    other = pem(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(CredentialsError, match=r"invalid_grant.*certificate_id belongs to private_key"):
        await new_source(private_key=other).open()
    with pytest.raises(CredentialsError, match="the private key cannot be used") as refused:
        await new_source(private_key="-----BEGIN no key").open()
    assert "BEGIN no key" not in str(refused.value)
    with pytest.raises(CredentialsError, match="the private key cannot be used"):
        await new_source(algorithm="PS256").open()  # of a key of a curve
    with pytest.raises(CredentialsError, match="lower concurrency") as refused:
        await new_source(legacy=True, token_secret="wrong").open()
    assert "wrong" not in str(refused.value)
    with pytest.raises(CredentialsError, match="refused the login"):
        await new_source(legacy=True, account_id="999").open()


async def test_a_clock_of_ours_that_is_wrong(sandbox: NetSuiteSandbox, new_source: NewSource) -> None:
    sandbox.account.skew = 40 * 86_400
    await new_source().open()
    await new_source(legacy=True).open()


async def test_a_token_that_ends(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    async with following(source, "customer") as tape:
        await tape.poll()
        sandbox.security.forget_tokens()
        await tape.poll()
        sandbox.account.skew += 3_700
        await tape.poll()
    assert source._client.credentials.renewals == 3


async def test_one_renewal_serves_all(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    await listed(source, "customer")
    sandbox.security.forget_tokens()
    before = sum(path.endswith("/token") for _, path in sandbox.requests)
    await asyncio.gather(*(listed(source, "customer") for _ in range(4)))
    assert sum(path.endswith("/token") for _, path in sandbox.requests) == before + 1


async def test_the_legacy_form_warns_of_its_end(
    new_source: NewSource, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "dimesh.cdc"):
        await new_source().open()
        assert "legacy" not in caplog.text
        await new_source(legacy=True).open()
    assert "from release 2027.1 on, NetSuite creates no new integrations" in caplog.text


async def test_each_attempt_has_a_signature_of_its_own(
    sandbox: NetSuiteSandbox, new_source: NewSource
) -> None:
    """A nonce that is sent again is refused: an attempt after an error must not repeat the signature (airbytehq/airbyte
    #44189).
    """
    source = new_source(legacy=True)
    await source.open()
    # The sandbox has read, and checked, the first signature when the connection breaks.
    for kind in ("truncated", "malformed", "overload_429", "error"):
        sandbox.faults.plan(kind, path=QUERY, times=2)
        await listed(source, "customer")
    assert source.account()["requests_refused"] == 2


@pytest.mark.parametrize("kind", ["overload_429", "overload_400", "overload_401"])
@pytest.mark.parametrize("legacy", [False, True])
async def test_overload_in_disguise(
    sandbox: NetSuiteSandbox, new_source: NewSource, kind: str, legacy: bool
) -> None:
    source = new_source(legacy=legacy, concurrency=8)
    await source.open()
    sandbox.account.create("customer", {})
    sandbox.faults.plan(kind, path=QUERY, times=3)
    assert len(await listed(source, "customer")) == 1
    assert source.account()["requests_at_once"] < 8


async def test_an_account_that_others_use(sandbox: NetSuiteSandbox, new_source: NewSource) -> None:
    """Several readers find out how many requests the account takes, and nobody fails."""
    for n in range(60):
        sandbox.account.create("customer", {"companyname": f"c{n}"})
    sandbox.latency, sandbox.others, sandbox.disguise = 0.01, 3, "overload_400"
    source = new_source(concurrency=10, page=10)
    await source.open()
    rows = await asyncio.gather(*(listed(source, "customer") for _ in range(6)))
    assert [len(found) for found in rows] == [60] * 6
    assert source.account()["requests_at_once"] < 10


async def test_a_login_that_is_refused_for_good(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    sandbox.faults.plan("login_attempt", path=QUERY, times=-1)
    before = len(sandbox.requests)
    with pytest.raises(CredentialsError, match=r"Log in using OAuth 2\.0 Access Tokens"):
        await listed(source, "customer")
    assert len(sandbox.requests) == before + 1, "a login that is refused for good was repeated"


# -- redirects -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "followed"),
    [
        ("https://1234567-sb1.suitetalk.api.eu.netsuite.com/services/rest/x", True),
        ("https://1234567-sb1.suitetalk.api.netsuite.com/services/rest/x", True),
        ("https://7654321.suitetalk.api.netsuite.com/services/rest/x", False),
        ("https://1234567-sb1.suitetalk.api.netsuite.com.evil.example/x", False),
        ("https://evil.example/1234567-sb1.suitetalk.api.netsuite.com", False),
        ("https://x@1234567-sb1.suitetalk.api.eu.netsuite.com/", False),
        ("http://1234567-sb1.suitetalk.api.eu.netsuite.com/", False),
        ("https://1234567-sb1.suitetalk.api.eu.netsuite.com:8443/", False),
        ("https://11234567-sb1.suitetalk.api.netsuite.com/", False),
        ("/services/rest/x", False),
        ("", False),
        ("https://[", False),
    ],
)
def test_hosts_that_an_account_may_move_to(location: str, followed: bool) -> None:
    origin = Origin.parse("https://1234567-sb1.suitetalk.api.na1.netsuite.com")
    assert (moved_to(origin, location, "1234567-sb1") is not None) is followed


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_credentials_go_to_no_other_host(
    sandbox: NetSuiteSandbox, new_source: NewSource, status: str
) -> None:
    async with RawServer(http(b"{}")).run() as evil:
        moved = http(status=status, location=f"{evil.origin}/services/rest/query/v1/suiteql")
        async with RawServer(moved).run() as home:
            source = new_source(legacy=True, url=str(home.origin), retry_for=0.0)
            with pytest.raises(SourceUnavailableError, match="which is no other host of the account"):
                await source.open()
        assert evil.requests == []


# -- the check -----------------------------------------------------------------------------------------


async def test_the_check_names_what_is_missing(sandbox: NetSuiteSandbox, source: NetSuiteSource) -> None:
    sandbox.account.add_record_type("customrecord_site")
    result = await source.check()
    assert result.ok
    assert set(result.objects.values()) == {""}
    assert "customrecord_site" in result.objects
    sandbox.account.role.without |= {"customer", "deletedrecord"}
    result = await source.check()
    assert not result.ok
    assert "add the permission Deleted Records (Setup)" in result.problems[0]
    assert "add the permission Customers (Lists) to the role" in result.objects["customer"]
    assert result.objects["vendor"] == ""
    sandbox.security.revoked = True
    sandbox.security.forget_tokens()
    result = await source.check()
    assert (result.ok, len(result.problems)) == (False, 1)


async def test_the_check_names_a_concurrency_that_is_too_high(
    sandbox: NetSuiteSandbox, new_source: NewSource
) -> None:
    sandbox.concurrency = 5
    source = new_source(concurrency=5)
    await source.open()
    (problem,) = (await source.check()).problems
    assert problem.startswith("concurrency is 5, and the account answers 5 requests at the same time")


# -- options -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"account_id": "1 2"}, "account_id must be an account id"),
        ({"client_id": None}, "client_id is missing"),
        ({"private_key": None}, "private_key is missing"),
        ({"consumer_key": "k"}, "name one kind of credentials"),
        ({"private_key_file": "f"}, "private_key cannot be given with private_key_file"),
        ({"url": "http://example.com"}, "url must be https"),
        ({"page": 1_001}, "page"),
        ({"algorithm": "RS256"}, "algorithm"),
    ],
)
def test_options_that_are_wrong(options: dict[str, Any], problem: str) -> None:
    given = {
        "account_id": "1", "client_id": "c", "certificate_id": "c", "private_key": "secret-key", **options,
    }  # fmt: skip
    with pytest.raises(ConfigurationError, match=problem) as failed:
        parse_options(NetSuiteOptions, {k: v for k, v in given.items() if v is not None}, "source 'netsuite'")
    assert "secret-key" not in str(failed.value)


def test_the_names_of_an_account() -> None:
    keys = {"client_id": "c", "certificate_id": "c", "private_key": "p"}
    options = parse_options(NetSuiteOptions, {"account_id": "1234567_SB1", **keys}, "source 'netsuite'")
    assert options.origin_url == "https://1234567-sb1.suitetalk.api.netsuite.com"
    same = parse_options(NetSuiteOptions, {"account_id": "1234567-sb1", **keys}, "source 'netsuite'")
    assert (options.realm, same.realm) == ("1234567_SB1", "1234567_SB1")


@pytest.mark.parametrize("legacy", [False, True])
async def test_the_connector_in_both_forms(sandbox: NetSuiteSandbox, legacy: bool) -> None:
    seen: list[Any] = []
    sandbox.account.create("customer", {"companyname": "Acme"})

    async def note(event: Any) -> None:
        seen.append(event.payload["after"]["companyname"])

    options = sandbox.options(legacy=legacy)
    keys = [
        options.pop(n)
        for n in ("consumer_key", "consumer_secret", "token_id", "token_secret")
        if n in options
    ]
    account_id = options.pop("account_id")
    assert account_id == ACCOUNT
    async with EventBusFactory.create("memory") as bus:
        await bus.subscribe("cdc.netsuite", note, "notes")
        connector = NetSuiteCDCConnector(
            "erp", bus, "Resource & Supply", account_id, *keys, poll=0.05, **options
        )
        await connector.start(["customer"])
        await until(lambda: seen == ["Acme"])
        await connector.disconnect()
