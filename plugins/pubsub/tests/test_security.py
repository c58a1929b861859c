"""TLS and credentials, against the small server behind a certificate and a token."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from dimesh import Event, EventBus
from dimesh.clock import SystemClock
from dimesh.errors import BusError
from dimesh.options import parse_options
from dimesh_contracts.waiting import until
from dimesh_pubsub.backend import PubSubBackend
from dimesh_pubsub.options import PubSubOptions
from servers.pubsub.small import SmallPubSub, pubsub_small

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]
TOKEN = "token-of-the-test"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(str(folder / "ca.pem"))
    return made


def secured(authority: trustme.CA, folder: Path, name: str) -> dict[str, str]:
    certificate = authority.issue_cert(name)
    certificate.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
    certificate.private_key_pem.write_to_path(str(folder / f"{name}.key"))
    return {
        "certificate": str(folder / f"{name}.pem"),
        "private": str(folder / f"{name}.key"),
        "token": TOKEN,
    }


@pytest.fixture(scope="module")
def server(authority: trustme.CA, folder: Path) -> Iterator[SmallPubSub]:
    with pubsub_small(**secured(authority, folder, "127.0.0.1")) as made:
        yield made


@pytest.fixture
def token_server() -> Iterator[tuple[str, list[str]]]:
    """Serve a token for a signed assertion, as Google does."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.rfile.read(int(self.headers["content-length"])).decode())
            good = self.path == "/token"
            answer = (
                {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}
                if good
                else {"error": "no"}
            )
            self.send_response(200 if good else 400)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *arguments: Any) -> None:
            pass

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=web.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{web.server_address[1]}", asked
    web.shutdown()
    web.server_close()
    thread.join()


@pytest.fixture
def key_file(folder: Path, token_server: tuple[str, list[str]]) -> Path:
    """Write the key file of a service account that gets its tokens from the test."""
    return account(folder / "key.json", f"{token_server[0]}/token")


def account(path: Path, token_uri: str) -> Path:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_text(
        json.dumps(
            {
                "type": "service_account",
                "project_id": "p",
                "private_key_id": "k",
                "private_key": pem.decode(),
                "client_email": "mesh@p.iam.gserviceaccount.com",
                "client_id": "1",
                "token_uri": token_uri,
            }
        )
    )
    return path


@pytest.fixture(autouse=True)
def no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


def backend(server: SmallPubSub, key: Path, ca: Path | None, **more: Any) -> PubSubBackend:
    options = {
        "project_id": "p",
        "endpoint": f"127.0.0.1:{server.port}",
        "credentials_file": str(key),
        "request_timeout": 3.0,
        **({"tls_ca": str(ca)} if ca else {}),
        **more,
    }
    return PubSubBackend(parse_options(PubSubOptions, options, "bus 'pubsub'"), SystemClock())


async def test_a_service_account_over_tls(
    server: SmallPubSub, key_file: Path, folder: Path, token_server: tuple[str, list[str]]
) -> None:
    bus = EventBus(backend(server, key_file, folder / "ca.pem"))
    handled: list[Any] = []
    await bus.subscribe("secured", lambda e: handled.append(e.payload), "g")
    await bus.publish("secured", Event("a.b", None, 1))
    await until(lambda: handled == [1])
    await bus.close()
    (asked,) = token_server[1]
    assertion = asked.partition("assertion=")[2].split("&")[0]
    claims = json.loads(base64.urlsafe_b64decode(assertion.split(".")[1] + "=="))
    assert claims["iss"] == "mesh@p.iam.gserviceaccount.com"
    assert claims["scope"] == "https://www.googleapis.com/auth/pubsub"


async def refused(made: PubSubBackend, said: str) -> None:
    with pytest.raises(BusError, match=said) as caught:
        await made.open()
    assert TOKEN not in str(caught.value)
    assert "PRIVATE KEY" not in str(caught.value)
    await made.close()


async def test_a_certificate_of_an_unknown_authority(server: SmallPubSub, key_file: Path) -> None:
    await refused(backend(server, key_file, None), "not from a trusted authority.*tls_ca")


async def test_a_certificate_for_another_name(authority: trustme.CA, folder: Path, key_file: Path) -> None:
    with pubsub_small(**secured(authority, folder, "elsewhere.example")) as other:
        await refused(backend(other, key_file, folder / "ca.pem"), "for another name")


async def test_an_expired_certificate(authority: trustme.CA, folder: Path, key_file: Path) -> None:
    old = authority.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC))
    old.cert_chain_pems[0].write_to_path(str(folder / "old.pem"))
    old.private_key_pem.write_to_path(str(folder / "old.key"))
    with pubsub_small(certificate=str(folder / "old.pem"), private=str(folder / "old.key")) as other:
        await refused(backend(other, key_file, folder / "ca.pem"), "has expired")


async def test_no_tls_there(folder: Path, key_file: Path) -> None:
    with pubsub_small() as plain:
        await refused(backend(plain, key_file, folder / "ca.pem"), "does not use TLS")


async def test_a_token_that_is_refused(folder: Path, authority: trustme.CA, key_file: Path) -> None:
    with pubsub_small(**{**secured(authority, folder, "127.0.0.1"), "token": "another"}) as other:
        await refused(backend(other, key_file, folder / "ca.pem"), "credentials were refused")


async def test_no_token_is_given(
    server: SmallPubSub, folder: Path, token_server: tuple[str, list[str]]
) -> None:
    key = account(folder / "refused.json", f"{token_server[0]}/refused")
    await refused(backend(server, key, folder / "ca.pem"), "no token could be obtained with the credentials")
