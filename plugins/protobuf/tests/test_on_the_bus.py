"""Protobuf payloads on a bus with a registry: checked with the schema that they were written with, passed on as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from dimesh import EventBusFactory, LocalSchemaRegistry, SchemaValidationError, StartAt
from dimesh.events import Event, cloudevents
from dimesh_contracts.waiting import until

ORDER = 'syntax = "proto3"; package shop; message Order { int64 id = 1; }'
NEWER = 'syntax = "proto3"; package shop; message Order { int64 number = 1; optional string currency = 2; }'


def event(payload: bytes, id: str) -> Event:
    headers = {
        "ce-specversion": "1.0",
        "ce-id": id,
        "ce-source": "/shop",
        "ce-type": "order.created",
        "content-type": "application/x-protobuf",
    }
    return cloudevents.from_binary(headers, payload)


async def test_a_protobuf_payload_is_checked_and_read_by_a_newer_version(tmp_path: Path) -> None:
    async with LocalSchemaRegistry(defaults=False) as registry:
        await registry.register("event.order.created", ORDER, "PROTOBUF")
        first = (await registry.registered("event.order.created", 1)).schema
        path = str(tmp_path / "mesh.db")
        async with EventBusFactory.create("sqlite", path=path, registry=registry) as bus:
            await bus.publish("orders", event(first.encode({"id": 7}), "one"))
            with pytest.raises(SchemaValidationError, match=r"event\.order\.created"):
                await bus.publish("orders", event(b"\xff" * 3, "two"))
        await registry.register("event.order.created", NEWER, "PROTOBUF")
        async with EventBusFactory.create("sqlite", path=path, registry=registry) as bus:
            got: list[Event] = []
            await bus.subscribe("orders", got.append, "g", start=StartAt.EARLIEST)
            await until(lambda: got)
        newest = (await registry.registered("event.order.created")).schema
        assert got[0].headers["writer-schema"] == "event.order.created/1"
        assert newest.decode(got[0].data, first) == {"number": 7}
