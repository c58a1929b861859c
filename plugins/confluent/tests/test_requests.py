"""Requests: addresses, authentication, retries, limits, and errors."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import trustme
from registry_server import Answer, Request, Scripted, hosted, registry_app

from dimesh import errors
from dimesh.clock import SystemClock
from dimesh.errors import ConfigurationError, RegistryAccessError, RegistryUnavailableError
from dimesh.options import parse_options
from dimesh.registry.rest import Access
from dimesh.secrets import Secret
from dimesh.spi.registry import SchemaContent
from dimesh_confluent.options import WHERE, ConfluentOptions
from dimesh_confluent.store import ConfluentStore

STRING = SchemaContent("JSON_SCHEMA", '{"type": "string"}', "")


@contextlib.asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[ConfluentStore]:
    """Yield a store."""
    parsed = parse_options(ConfluentOptions, {"url": url, "retry_for": 5.0, **options}, WHERE)
    store = ConfluentStore(parsed, SystemClock())
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


# -- addresses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"url": "http://registry.example:8081", "username": "u", "password": "hunter2"}, "must be https"),
        ({"url": "https://u:hunter2@registry.example"}, "must not contain a login"),
        ({"url": "ftp://registry.example"}, "must be an address"),
        ({"url": "https://a.example,,https://b.example"}, "must be an address"),
        ({"url": "https://registry.example/a/../b"}, "'..'"),
        ({"url": "https://registry.example?x=1"}, "must be an address"),
        ({"url": "https://registry.example:99999"}, "(?i)port"),
        ({"username": "u", "token": "hunter2"}, "one way to authenticate"),
        ({"password": "hunter2"}, "username"),
        ({"oauth_url": "https://login.example/token", "oauth_client_id": "c"}, "oauth_client_secret"),
        ({"oauth_url": "http://login.example/token"}, "must be https"),
        ({"url": "http://registry.example", "token": "hunter2"}, "credentials"),
        ({"certificate_key_file": "key.pem"}, "certificate_file"),
    ],
)
def test_unsafe_options_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        parse_options(ConfluentOptions, options, WHERE)
    assert "hunter2" not in str(caught.value)


def test_plain_http_works_without_credentials() -> None:
    """As in the user's document, whose registry is http://schema-registry:8081."""
    options = parse_options(ConfluentOptions, {"url": "http://registry.example"}, WHERE)
    assert [str(address) for address in options.addresses()] == ["http://registry.example"]


async def test_the_path_of_the_address_comes_first_and_names_are_encoded() -> None:
    server = Scripted(lambda request: (200, [1]))
    async with hosted(server) as url, opened(f"{url}/apis/ccompat/v7/") as store:
        await store.numbers(":.dev:a/b ü%41")
    (request,) = server.requests
    assert request.path == "/apis/ccompat/v7/subjects/%3A.dev%3Aa%2Fb%20%C3%BC%2541/versions"


@pytest.mark.parametrize("name", ["", ".", ".."])
async def test_names_that_no_address_can_have_are_refused(name: str) -> None:
    async with opened("http://localhost:1") as store:
        with pytest.raises(errors.SchemaError, match="choose another"):
            await store.get(name)


async def test_the_next_address_is_used_when_one_does_not_answer() -> None:
    app = registry_app()
    async with hosted(app) as url, opened(f"http://127.0.0.1:{free_port()},{url}", retry_for=0.0) as store:
        assert (await store.register("s", STRING)).version == 1
        assert list(await store.subjects()) == ["s"]


async def test_an_address_that_fails_is_replaced_and_the_good_one_is_kept() -> None:
    bad = Scripted(lambda request: (503, {"error_code": 50003, "message": "no leader"}))
    good = Scripted(lambda request: (200, ["s"]))
    async with hosted(bad) as one, hosted(good) as two, opened(f"{one},{two}") as store:
        for _ in range(3):
            assert list(await store.subjects()) == ["s"]
    assert (len(bad.requests), len(good.requests)) == (1, 3)


# -- retries -----------------------------------------------------------------------------------------


async def test_temporary_failures_are_repeated() -> None:
    answers: list[Answer] = [
        (500, {"error_code": 50001, "message": "store"}),
        (429, {}, {"retry-after": "0.2"}),
        (302, b"", {"location": "https://elsewhere.example"}),
        (200, b"<html>starting</html>"),
        (200, ["s"]),
    ]
    server = Scripted(lambda request: answers.pop(0))
    async with hosted(server) as url, opened(url) as store:
        assert list(await store.subjects()) == ["s"]
    assert len(server.requests) == 5


async def test_one_deadline_covers_all_attempts() -> None:
    async def never(request: Request) -> Answer:
        await asyncio.sleep(60)
        return 200, []

    began = asyncio.get_running_loop().time()
    async with (
        hosted(Scripted(never)) as url,
        opened(f"{url},http://127.0.0.1:{free_port()}", timeout=0.2, retry_for=0.5) as store,
    ):
        with pytest.raises(RegistryUnavailableError, match="could not be reached at") as caught:
            await store.subjects()
        assert asyncio.get_running_loop().time() - began < 5
    assert not caught.value.permanent


async def test_a_delete_of_unknown_outcome_is_not_repeated() -> None:
    server = Scripted(lambda request: (504, {"error_code": 50002, "message": "timeout"}))
    async with hosted(server) as url, opened(url) as store:
        with pytest.raises(RegistryUnavailableError, match="unknown"):
            await store.delete("s")
    assert len(server.requests) == 1


async def test_a_delete_that_was_not_carried_out_is_repeated() -> None:
    answers: list[Answer] = [(503, {}), (200, [1])]
    async with hosted(Scripted(lambda request: answers.pop(0))) as url, opened(url) as store:
        assert list(await store.delete("s")) == [1]


# -- answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, 40401, errors.SubjectNotFoundError),
        (404, 40402, errors.SubjectNotFoundError),
        (404, 40403, errors.SubjectNotFoundError),
        (404, 40404, errors.SoftDeletedError),
        (404, 40405, errors.NotSoftDeletedError),
        (404, 40406, errors.SoftDeletedError),
        (404, 40407, errors.NotSoftDeletedError),
        (422, 42201, errors.InvalidSchemaError),
        (422, 42202, errors.SchemaError),
        (422, 42203, errors.ConfigurationError),
        (422, 42204, errors.ConfigurationError),
        (422, 42205, errors.NotPermittedError),
        (422, 42206, errors.ReferencedError),
        (422, 42207, errors.SchemaIdConflictError),
        (422, 42208, errors.SchemaError),
        (422, 42209, errors.InvalidSchemaError),
        (422, 42210, errors.InvalidSchemaError),
        (422, 42211, errors.NotPermittedError),
        (401, 401, errors.RegistryAccessError),
        (403, 40301, errors.RegistryAccessError),
        (422, 99999, errors.InvalidSchemaError),
        (418, 418, errors.SchemaError),
        (500, 50001, errors.RegistryUnavailableError),
        (500, 50002, errors.RegistryUnavailableError),
        (500, 50003, errors.RegistryUnavailableError),
        (500, 50004, errors.RegistryUnavailableError),
    ],
)
async def test_each_code_is_an_error_of_its_own(status: int, code: int, kind: type[Exception]) -> None:
    server = Scripted(lambda request: (status, {"error_code": code, "message": "the reason"}))
    async with hosted(server) as url, opened(url, retry_for=0.0) as store:
        with pytest.raises(kind) as caught:
            await store.delete("s")
    assert type(caught.value) is kind
    assert "the reason" in str(caught.value)


async def test_the_reasons_of_a_refusal_are_kept() -> None:
    for code in (409, 40901):
        message = f"Schema being registered is incompatible ({code})"
        server = Scripted(lambda r, c=code, m=message: (409, {"error_code": c, "message": m}))  # type: ignore[misc]
        async with hosted(server) as url, opened(url) as store:
            with pytest.raises(errors.IncompatibleSchemaError) as caught:
                await store.register("s", STRING)
        assert caught.value.reasons == (message,)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        None,
        "text",
        {"schema": None, "id": 1, "version": 1, "subject": "s"},
        {"schema": {"type": "string"}, "id": 1, "version": 1, "subject": "s"},
        {"schema": "{}", "id": "1", "version": 1, "subject": "s"},
        {"schema": "{}", "id": 1, "version": 2**40, "subject": "s"},
        {"schema": "{}", "id": True, "version": 1, "subject": "s"},
        {"schema": "{}", "id": 1, "version": 1, "subject": "s", "references": [{"name": "x"}]},
        {"schema": "{}", "id": 1, "version": 1, "subject": "s", "metadata": "x"},
    ],
)
async def test_an_answer_of_another_form_is_a_temporary_error(answer: Any) -> None:
    async with hosted(Scripted(lambda request: (200, answer))) as url, opened(url, retry_for=0.0) as store:
        with pytest.raises(RegistryUnavailableError):
            await store.get("s", 1)


async def test_what_is_read_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dimesh_confluent.transport.MAX_ANSWER", 1_000)
    big = {"schema": "x" * 2_000, "id": 1, "version": 1, "subject": "s"}
    deep = b"[" * 100_000
    async with hosted(Scripted(lambda request: (200, big))) as url, opened(url) as store:
        with pytest.raises(RegistryUnavailableError, match="more than 1,000 bytes"):
            await store.get("s", 1)
    monkeypatch.undo()
    async with hosted(Scripted(lambda request: (200, deep))) as url, opened(url, retry_for=0.0) as store:
        with pytest.raises(RegistryUnavailableError, match="not JSON"):
            await store.get("s", 1)


async def test_nulls_and_unknown_members_are_accepted() -> None:
    answer = {
        "subject": "s",
        "version": 3,
        "id": 7,
        "schema": '"string"',
        "schemaType": None,
        "references": None,
        "metadata": None,
        "ruleSet": None,
        "new": {"x": 1},
    }
    async with hosted(Scripted(lambda request: (200, answer))) as url, opened(url) as store:
        stored = await store.get("s", 3)
    assert stored is not None
    assert (stored.format, stored.version, stored.schema_id, stored.guid) == ("AVRO", 3, 7, "")


async def test_an_older_server_answers_a_registration_with_the_id_only() -> None:
    found = {"subject": "s", "version": 3, "id": 7, "schema": STRING.text, "schemaType": "JSON"}

    def answer(request: Request) -> Answer:
        return (200, {"id": 7}) if request.path.endswith("/versions") else (200, found)

    async with hosted(Scripted(answer)) as url, opened(url) as store:
        assert (await store.register("s", STRING)).version == 3


async def test_an_older_server_ignores_limits_and_asks_for_no_normal_form() -> None:
    server = Scripted(lambda request: (200, ["a", "b", "c", "d"]))
    async with hosted(server) as url, opened(url) as store:
        assert list(await store.subjects(offset=1, limit=2)) == ["b", "c"]
        assert list(await store.subjects(limit=0)) == []
    assert [request.query for request in server.requests] == ["limit=3"]


# -- authentication ----------------------------------------------------------------------------------


async def test_basic_and_bearer_authentication() -> None:
    access = Access({"billing": Secret("pä:ss")}, [Secret("s3cret")])
    async with hosted(registry_app(access)) as url:
        async with opened(url, username="billing", password="pä:ss") as store:
            assert (await store.register("s", STRING)).version == 1
        async with opened(url, token="s3cret") as store:
            assert list(await store.subjects()) == ["s"]
        for wrong in ({}, {"token": "hunter2"}, {"username": "billing", "password": "hunter2"}):
            async with opened(url, **wrong) as store:
                with pytest.raises(RegistryAccessError) as caught:
                    await store.subjects()
            assert "hunter2" not in str(caught.value)


def test_secrets_are_not_shown() -> None:
    given = {"username": "u", "password": "hunter2"}
    assert "hunter2" not in repr(parse_options(ConfluentOptions, given, WHERE))


async def test_oauth_fetches_one_token_and_another_one_after_a_refusal() -> None:
    asked: list[Request] = []

    async def give(request: Request) -> Answer:
        asked.append(request)
        await asyncio.sleep(0.05)
        return 200, {"access_token": f"t{len(asked)}", "expires_in": 3_600}

    def answer(request: Request) -> Answer:
        if request.headers.get("authorization") == f"Bearer t{valid[0]}":
            return 200, ["s"]
        return 401, {"error_code": 401, "message": "log in"}

    valid = [1]
    registry = Scripted(answer)
    async with hosted(Scripted(give)) as login, hosted(registry) as url:
        options = {
            "oauth_url": f"{login}/token",
            "oauth_client_id": "me",
            "oauth_client_secret": "a b:c",
            "oauth_scope": "registry",
            "logical_cluster": "lsrc-1",
            "identity_pool": "pool-1",
        }
        async with opened(url, **options) as store:
            await asyncio.gather(*(store.subjects() for _ in range(5)))
            assert len(asked) == 1
            valid[0] = 2
            assert list(await store.subjects()) == ["s"]
            assert len(asked) == 2
            valid[0] = 99
            with pytest.raises(RegistryAccessError):
                await store.subjects()
    assert registry.requests[0].headers["target-sr-cluster"] == "lsrc-1"
    assert registry.requests[0].headers["confluent-identity-pool-id"] == "pool-1"
    assert parse_qs(asked[0].body.decode()) == {"grant_type": ["client_credentials"], "scope": ["registry"]}
    login_sent = base64.b64decode(asked[0].headers["authorization"].removeprefix("Basic "))
    assert login_sent == b"me:a+b%3Ac"


@pytest.mark.parametrize(
    ("status", "answer", "kind"),
    [
        (401, {}, RegistryAccessError),
        (400, {"error": "invalid_client"}, RegistryAccessError),
        (200, {}, RegistryUnavailableError),
        (200, {"access_token": "a\nb"}, RegistryUnavailableError),
        (500, {}, RegistryUnavailableError),
    ],
)
async def test_an_oauth_server_that_gives_no_token(status: int, answer: Any, kind: type[Exception]) -> None:
    given = {"oauth_client_id": "me", "oauth_client_secret": "hunter2"}
    async with (
        hosted(Scripted(lambda request: (status, answer))) as login,
        opened("http://localhost:1", oauth_url=login, retry_for=0.0, **given) as store,
    ):
        with pytest.raises(kind) as caught:
            await store.subjects()
    assert "hunter2" not in str(caught.value)


async def test_mutual_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("me@client.example").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "client.pem")
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    authority.issue_cert("localhost").configure_cert(context)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\n["s"]')
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "localhost", 0, ssl=context)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    trusted = {"ca_file": str(tmp_path / "ca.pem"), "retry_for": 0.0}
    async with server:
        async with opened(url, certificate_file=str(tmp_path / "client.pem"), **trusted) as store:
            assert list(await store.subjects()) == ["s"]
        for options in (trusted, {"certificate_file": str(tmp_path / "client.pem"), "retry_for": 0.0}):
            async with opened(url, **options) as store:
                with pytest.raises(RegistryUnavailableError):
                    await store.subjects()


@pytest.mark.parametrize("option", ["ca_file", "certificate_file"])
async def test_certificates_that_cannot_be_used(option: str, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for path in (tmp_path / "empty.pem", tmp_path / "missing.pem"):
        store = ConfluentStore(ConfluentOptions(**{option: str(path)}), SystemClock())
        with pytest.raises(ConfigurationError, match=option):
            await store.open()
