"""Credentials go to the configured origin, whatever an answer names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimesh.errors import ConfigurationError
from dimesh.sourcekit.addresses import ForeignAddressError, Origin, is_loopback
from dimesh.sourcekit.options import check_origin

HOME = Origin.parse("https://api.acme.example")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://api.acme.example", "https://api.acme.example"),
        ("https://API.acme.example:443/", "https://api.acme.example"),
        ("https://api.acme.example:8443", "https://api.acme.example:8443"),
        ("http://localhost:12111", "http://localhost:12111"),
        ("http://127.0.0.1", "http://127.0.0.1"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_addresses_that_credentials_may_be_sent_to(url: str, text: str) -> None:
    assert str(Origin.parse(url)) == text


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://api.acme.example", "url must be https: credentials"),
        ("http://127.0.0.1.evil.example", "url must be https: credentials"),
        ("https://user:pw@api.acme.example", "url must not contain a login"),
        ("https://user@api.acme.example", "url must not contain a login"),
        ("https://api.acme.example/v1", "url must be https://host, without a path"),
        ("https://api.acme.example?x=1", "url must be https://host, without a path"),
        ("ftp://api.acme.example", "url must be https://host"),
        ("api.acme.example", "url must be https://host"),
        ("https://", "url must be https://host"),
        ("https://api.acme.example\n", "url must consist of printable ASCII"),
        ("https://api.acme.example\\@evil.example", "url must consist of printable ASCII"),
    ],
)
def test_addresses_that_are_refused(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as failed:
        check_origin("url", url)
    assert str(failed.value).startswith(problem)
    assert "pw" not in str(failed.value)


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("/v1/events?limit=1", "/v1/events?limit=1"),
        ("https://api.acme.example/v1/events?limit=1", "/v1/events?limit=1"),
        ("https://API.ACME.example:443/v1", "/v1"),
        ("https://api.acme.example", "/"),
        ("https://api.acme.example?a=1", "/?a=1"),
        ("/v1#//evil.example", "/v1"),
    ],
)
def test_addresses_of_the_origin(address: str, path: str) -> None:
    assert HOME.path(address) == path


@pytest.mark.parametrize(
    "address",
    [
        "https://evil.example/v1",
        "http://api.acme.example/v1",
        "https://api.acme.example:8443/v1",
        "https://api.acme.example.evil.example/v1",
        "https://api.acme.example@evil.example/v1",
        "https://api.acme.example:pw@api.acme.example/v1",
        "https://evil.example\\@api.acme.example/v1",
        "https://api.acme.example%2eevil.example/",
        "//evil.example/v1",
        "/\\evil.example/v1",
        "\\\\evil.example/v1",
        "/\t/evil.example/v1",
        "@evil.example/v1",
        ".evil.example/v1",
        ":8443/v1",
        "v1/events",
        "",
        " /v1",
        "/v1\r\nhost: evil.example",
        "/\u2215evil.example",
        "https:/evil.example",
        "https:evil.example",
        "javascript:alert(1)",
        "/" + "a" * 20_000,
    ],
)
def test_addresses_outside_the_origin(address: str) -> None:
    with pytest.raises(ForeignAddressError, match="is not followed"):
        HOME.path(address)


@given(st.text(alphabet="/\\@:?#.%[]htpsevilacmexamp ", max_size=40))
def test_what_is_accepted_never_changes_the_host(address: str) -> None:
    import httpx

    try:
        path = HOME.path(address)
    except ForeignAddressError:
        return
    assert httpx.URL(f"{HOME}{path}").host == "api.acme.example"


@pytest.mark.parametrize(
    ("target", "here"),
    [
        ("localhost:7443", True),
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("localhost", True),
        ("api.pubsub.salesforce.com:7443", False),
        ("localhost.evil.example:1", False),
        ("evil.example:localhost", False),
    ],
)
def test_this_machine(target: str, here: bool) -> None:
    assert is_loopback(target) is here
