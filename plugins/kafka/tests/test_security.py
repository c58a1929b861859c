"""Authentication and authorization: which clients are admitted, and the errors for those that are not."""

from __future__ import annotations

import asyncio
import base64
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from dimesh import Event, EventBus, RejectError
from dimesh.errors import BusError, DimeshError
from dimesh.spi.bus import TopicConfig
from dimesh_contracts.waiting import until
from dimesh_kafka.backend import KafkaBackend
from servers.kafka import LEAKS, USERS, KafkaCluster

pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("leaky_client"), LEAKS, pytest.mark.timeout(120)]

_ONE = TopicConfig(partitions=1)
Make = Callable[..., KafkaBackend]


@pytest.fixture
def topic() -> str:
    return f"secure.{uuid4().hex[:10]}"


@pytest.fixture
def ca(kafka: KafkaCluster) -> str:
    return str(kafka.certificates.ca)


def token(user: str, lifetime: float = 3_600) -> str:
    """Return an unsigned JWT, the kind that the test broker accepts."""
    now = time.time()
    parts = ({"alg": "none"}, {"sub": user, "iat": now, "exp": now + lifetime})
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, ""])


async def works(backend: KafkaBackend, topic: str) -> None:
    bus = EventBus(backend)
    handled: list[Any] = []
    await bus.subscribe(topic, lambda e: handled.append(e.payload), "g")
    await bus.publish(topic, Event("a.b", None, 1))
    await until(lambda: handled == [1])
    await bus.close()


async def refused(backend: KafkaBackend, said: str) -> None:
    with pytest.raises(BusError, match=said) as caught:
        async with asyncio.timeout(30):
            await backend.open()
    await backend.close()
    text = "".join(str(error) for error in (caught.value, caught.value.__cause__))
    assert not any(password in text for password in USERS.values())


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
async def test_a_user_with_a_password(
    new_backend: Make, kafka: KafkaCluster, ca: str, topic: str, mechanism: str
) -> None:
    options = {"sasl_mechanism": mechanism, "sasl_username": "admin", "sasl_password": USERS["admin"]}
    await works(
        new_backend(bootstrap_servers=kafka.servers("SASLTLS"), tls=True, tls_ca=ca, **options), topic
    )


async def test_scram_without_tls(new_backend: Make, kafka: KafkaCluster, topic: str) -> None:
    options = {"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": "admin", "sasl_password": USERS["admin"]}
    await works(new_backend(bootstrap_servers=kafka.servers("SASL"), **options), topic)


async def test_a_token_from_a_file(
    new_backend: Make, kafka: KafkaCluster, topic: str, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(token("admin"))
    options = {"sasl_mechanism": "OAUTHBEARER", "oauth_token_file": str(tmp_path / "token")}
    await works(new_backend(bootstrap_servers=kafka.servers("SASL"), **options), topic)


@pytest.fixture
def token_server() -> Iterator[tuple[str, list[str]]]:
    """Serve tokens for client credentials, and record the requests."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            asked.append(body)
            good = "client_secret=good" in body
            answer = json.dumps(
                {"access_token": token("admin"), "expires_in": 300} if good else {"error": "no"}
            )
            self.send_response(200 if good else 401)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/token", asked
    server.shutdown()
    server.server_close()
    thread.join()


async def test_a_token_by_client_credentials(
    new_backend: Make, kafka: KafkaCluster, topic: str, token_server: tuple[str, list[str]]
) -> None:
    url, asked = token_server
    options = {
        "bootstrap_servers": kafka.servers("SASL"),
        "sasl_mechanism": "OAUTHBEARER",
        "oauth_token_url": url,
        "oauth_client_id": "me",
        "oauth_scope": "kafka",
    }
    await works(new_backend(**options, oauth_client_secret="good"), topic)
    assert "grant_type=client_credentials" in asked[0]
    assert "scope=kafka" in asked[0]
    await refused(
        new_backend(**options, oauth_client_secret="wrong", request_timeout=3.0), "answered 401|no OAuth"
    )


async def test_a_wrong_password(new_backend: Make, kafka: KafkaCluster, ca: str) -> None:
    options = {"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": "admin", "sasl_password": "wrong-pass"}
    await refused(
        new_backend(bootstrap_servers=kafka.servers("SASLTLS"), tls=True, tls_ca=ca, **options),
        "refuses the credentials",
    )


@pytest.mark.parametrize(
    ("listener", "said"),
    [
        ("WRONGHOST", "certificate .* not accepted.*127.0.0.1"),
        ("EXPIRED", "certificate .* not accepted.*expired"),
    ],
)
async def test_a_certificate_that_is_not_good(
    new_backend: Make, kafka: KafkaCluster, ca: str, listener: str, said: str
) -> None:
    await refused(
        new_backend(bootstrap_servers=kafka.servers(listener), tls=True, tls_ca=ca, request_timeout=5.0), said
    )


async def test_an_authority_that_is_not_trusted(new_backend: Make, kafka: KafkaCluster) -> None:
    await refused(
        new_backend(bootstrap_servers=kafka.servers("TLS"), tls=True, request_timeout=5.0),
        "certificate .* not accepted",
    )


async def test_tls(new_backend: Make, kafka: KafkaCluster, ca: str, topic: str) -> None:
    await works(new_backend(bootstrap_servers=kafka.servers("TLS"), tls=True, tls_ca=ca), topic)


async def test_verification_can_be_turned_off(new_backend: Make, kafka: KafkaCluster, topic: str) -> None:
    backend = new_backend(bootstrap_servers=kafka.servers("WRONGHOST"), tls=True, tls_verify=False)
    await works(backend, topic)


@pytest.mark.parametrize(("listener", "tls"), [("PLAIN", True), ("TLS", False)], ids=["plain", "tls"])
async def test_the_wrong_protocol(
    new_backend: Make, kafka: KafkaCluster, ca: str, listener: str, tls: bool
) -> None:
    options = {"tls": True, "tls_ca": ca} if tls else {}
    await refused(
        new_backend(bootstrap_servers=kafka.servers(listener), request_timeout=3.0, **options),
        "cannot connect|not accepted",
    )


@pytest.fixture
def alice(new_backend: Make, kafka: KafkaCluster) -> Make:
    """Return a function that makes backends for a user who is subject to ACLs."""
    options = {"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": "alice", "sasl_password": USERS["alice"]}
    return lambda **more: new_backend(bootstrap_servers=kafka.servers("SASL"), **options, **more)


def allow(
    kafka: KafkaCluster,
    kind: ResourceType,
    name: str,
    *operations: AclOperation,
    pattern: ResourcePatternType = ResourcePatternType.PREFIXED,
) -> None:
    bindings = [
        AclBinding(kind, name, pattern, "User:alice", "*", operation, AclPermissionType.ALLOW)
        for operation in operations
    ]
    client = AdminClient({"bootstrap.servers": kafka.servers()})
    for future in client.create_acls(bindings).values():
        future.result(20)


async def test_a_missing_acl_is_named(
    new_backend: Make, kafka: KafkaCluster, alice: Make, topic: str, namespace: str
) -> None:
    """The topic first, then the group; with both, everything works."""
    admin = new_backend()
    await admin.open()
    await admin.create_topic(topic, _ONE)
    await admin.close()
    bus = EventBus(alice(request_timeout=4.0))
    with pytest.raises(DimeshError, match=r"ACL|refuses topic|denies"):
        await bus.publish(topic, Event("a.b"))
    everything = (AclOperation.READ, AclOperation.WRITE, AclOperation.DESCRIBE, AclOperation.DESCRIBE_CONFIGS)
    await asyncio.to_thread(allow, kafka, ResourceType.TOPIC, topic, *everything)
    await _eventually_publishes(bus, topic)
    with pytest.raises(DimeshError, match=r"group.*ACL"):
        await bus.subscribe(topic, lambda e: None, "team")
    await asyncio.to_thread(
        allow, kafka, ResourceType.GROUP, "team", AclOperation.READ, AclOperation.DESCRIBE
    )
    handled: list[Any] = []
    async with asyncio.timeout(20):
        while True:
            try:
                await bus.subscribe(topic, lambda e: handled.append(e.payload), "team")
                break
            except DimeshError:
                await asyncio.sleep(0.05)
    await bus.publish(topic, Event("a.b", None, "in"))
    await until(lambda: handled == ["in"])
    await bus.close()


@pytest.mark.parametrize("there", [True, False])
async def test_dead_letters_without_permission_to_describe_their_topic(
    new_backend: Make, kafka: KafkaCluster, alice: Make, topic: str, namespace: str, there: bool
) -> None:
    """The topic may only be written. One created by the administrator keeps its settings; a missing one is created."""
    admin = new_backend()
    await admin.open()
    await admin.create_topic(topic, _ONE)
    config = TopicConfig(partitions=3, retention_seconds=3_600)
    if there:
        await admin.create_topic(f"{topic}.dlq", config)
    else:
        config = TopicConfig(partitions=1, retention_seconds=30 * 86_400)
    for name, *operations in (
        (topic, AclOperation.READ, AclOperation.WRITE),
        (f"{topic}.dlq", AclOperation.WRITE, *(() if there else (AclOperation.CREATE,))),
        (namespace, AclOperation.CREATE, AclOperation.READ, AclOperation.WRITE),
    ):
        kind = ResourcePatternType.LITERAL if name == topic else ResourcePatternType.PREFIXED
        await asyncio.to_thread(allow, kafka, ResourceType.TOPIC, name, *operations, pattern=kind)
    await asyncio.to_thread(allow, kafka, ResourceType.GROUP, f"team@{topic}", AclOperation.READ)

    async def refuse(event: Event) -> None:
        raise RejectError("no")

    bus = EventBus(alice(request_timeout=4.0))
    await bus.subscribe(topic, refuse, "team")
    await bus.publish(topic, Event("a.b"))
    await until(lambda: bus.stats()["team"].dead_lettered == 1)
    await bus.close()
    (found,) = [info for info in await admin.topics() if info.name == f"{topic}.dlq"]
    assert found.config == config
    assert found.records == 1
    await admin.close()


async def _eventually_publishes(bus: EventBus, topic: str) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await bus.publish(topic, Event("a.b"))
                return
            except DimeshError:
                await asyncio.sleep(0.05)
