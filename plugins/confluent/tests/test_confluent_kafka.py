"""Confluent's own Python client and serializers against ``dimesh registry serve`` as a process."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka.schema_registry import (
    Schema,
    SchemaReference,
    SchemaRegistryClient,
    header_schema_id_serializer,
)
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext, SerializationError

from dimesh_confluent import wire
from servers.processes import ServerProcess, accepts, free_ports

ORDER = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "title": "Order",
    "type": "object",
    "properties": {"id": {"type": "integer"}, "name": {"type": "string"}},
    "required": ["id"],
}
VALUE = {"id": 7, "name": "Zoë"}
AVRO = {
    "type": "record",
    "name": "Order",
    "namespace": "shop",
    "fields": [{"name": "id", "type": "long"}, {"name": "name", "type": "string"}],
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("registry")
    (folder / "dimesh.toml").write_text(
        f"[mesh]\ndata_dir = {json.dumps(str(folder))}\n[registry.serve]\nusers = {{ shop = 'a: b' }}\n"
    )
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "dimesh", "--config", str(folder / "dimesh.toml"), "registry", "serve"]
    server = ServerProcess([*command, "--listen", f"127.0.0.1:{port}"], folder / "log")
    server.start(lambda: accepts(port))
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def client(url: str) -> Iterator[SchemaRegistryClient]:
    with SchemaRegistryClient({"url": url, "basic.auth.user.info": "shop:a: b"}) as made:
        yield made


def schema(**changes: Any) -> Schema:
    return Schema(json.dumps({**ORDER, **changes}), "JSON")


def refused(call: Any, *arguments: Any) -> tuple[int, int]:
    with pytest.raises(SchemaRegistryError) as caught:
        call(*arguments)
    return caught.value.http_status_code, caught.value.error_code


def test_register_look_up_and_read(client: SchemaRegistryClient) -> None:
    subject = "shop/orders äö-value"
    number = client.register_schema(subject, schema())
    assert client.register_schema(subject, schema()) == number
    found = client.lookup_schema(subject, schema())
    assert (found.schema_id, found.version, found.subject) == (number, 1, subject)
    assert client.get_latest_version(subject).guid == found.guid
    assert client.get_schema(number).schema_str == schema().schema_str
    assert client.get_schema_by_guid(found.guid).schema_type == "JSON"
    assert client.get_versions(subject) == [1]
    assert subject in client.get_subjects()


def test_compatibility_and_refusals(client: SchemaRegistryClient) -> None:
    subject = "refusals-value"
    client.register_schema(subject, schema())
    narrower = schema(required=["id", "name"])
    assert client.test_compatibility(subject, schema(title="Bestellung"))
    assert not client.test_compatibility(subject, narrower)
    assert refused(client.register_schema, subject, narrower)[0] == 409
    assert refused(client.register_schema, subject, Schema("{", "JSON")) == (422, 42201)
    assert refused(client.get_latest_version, "nobody") == (404, 40401)
    assert refused(client.get_version, subject, 9) == (404, 40402)
    assert refused(client.get_schema, 10_000) == (404, 40403)
    assert client.set_compatibility(subject, "NONE") is not None
    assert client.get_compatibility(subject) == "NONE"
    assert client.register_schema(subject, narrower) > 0
    assert client.get_versions(subject) == [1, 2]


def test_deletes(client: SchemaRegistryClient) -> None:
    subject = "deletes-value"
    number = client.register_schema(subject, schema(title="deletes"))
    assert refused(client.delete_subject, subject, True) == (404, 40405)
    assert client.delete_subject(subject) == [1]
    assert refused(client.delete_subject, subject) == (404, 40404)
    assert client.get_subjects(deleted=True).count(subject) == 1
    assert client.get_schema(number).schema_str
    assert client.delete_subject(subject, permanent=True) == [1]
    assert refused(client.get_versions, subject) == (404, 40401)


def test_references_keep_what_they_refer_to(client: SchemaRegistryClient) -> None:
    money = Schema(json.dumps({"type": "record", "name": "Money", "fields": []}))
    client.register_schema("money", money)
    bill = {"type": "record", "name": "Bill", "fields": [{"name": "total", "type": "Money"}]}
    client.register_schema(
        "bill", Schema(json.dumps(bill), references=[SchemaReference("Money", "money", 1)])
    )
    assert client.get_latest_version("bill").schema.references[0].subject == "money"
    assert refused(client.delete_version, "money", 1) == (422, 42206)


@pytest.mark.parametrize("form", ["prefix", "header"])
@pytest.mark.parametrize("language", ["json", "avro"])
def test_payloads_go_both_ways(client: SchemaRegistryClient, language: str, form: str) -> None:
    options: dict[str, Any] = (
        {"schema.id.serializer": header_schema_id_serializer} if form == "header" else {}
    )
    headers: list[tuple[str, bytes]] = []
    context = SerializationContext(f"{language}_{form}", MessageField.VALUE, headers)
    if language == "json":
        serialize: Any = JSONSerializer(json.dumps(ORDER), client, conf=options)
        deserialize: Any = JSONDeserializer(None, schema_registry_client=client)
    else:
        serialize = AvroSerializer(client, json.dumps(AVRO), conf=options)
        deserialize = AvroDeserializer(client)
    data = serialize(VALUE, context)
    assert deserialize(data, context) == VALUE
    stored = client.get_latest_version(f"{language}_{form}-value")
    if form == "prefix":
        found = wire.read_prefix(data)
        assert found.schema_id == stored.schema_id
        assert wire.prefix(stored.schema_id) + data[found.size :] == data
    else:
        name, value = headers[-1]
        assert name == wire.VALUE_HEADER
        assert wire.read_header(value).guid == stored.guid
        assert wire.header(stored.guid) == value


def test_an_invalid_value_is_refused_by_the_serializer(client: SchemaRegistryClient) -> None:
    serialize = JSONSerializer(json.dumps(ORDER), client)
    with pytest.raises(SerializationError):
        serialize({"id": "seven"}, SerializationContext("invalid", MessageField.VALUE))
