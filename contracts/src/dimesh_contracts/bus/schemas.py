"""Schemas: an event keeps the version that it was written with on its way, on whichever backend."""

from __future__ import annotations

from typing import Any

from dimesh.bus.engine import EventBus
from dimesh.bus.schema_cache import WRITER_SCHEMA
from dimesh.events import Event
from dimesh.registry import LocalSchemaRegistry
from dimesh_contracts.bus.guarantees import BusGuarantee as G
from dimesh_contracts.bus.harness import BusHarness, NewBackend
from dimesh_contracts.contract import proves
from dimesh_contracts.waiting import until

SUBJECT = "event.order.created"
OLD: dict[str, Any] = {"properties": {"order": {"type": "integer"}}, "required": ["order"]}
NEW: dict[str, Any] = {"properties": {"order": {"type": "string"}}, "required": ["order", "at"]}


class WrittenSchemas(BusHarness):
    """Events of several versions of one schema."""

    @proves(G.WRITER_SCHEMA)
    async def test_an_event_arrives_with_the_version_that_it_was_written_with(
        self, new_backend: NewBackend, topic: str
    ) -> None:
        """An event of an older version, which the newest one cannot read, is handled as it was written. Usually wrong: the
        backend drops the header ``writer-schema``, or takes names with 'schema' for its own; the event is then checked against
        the newest version and dead-lettered.
        """
        async with LocalSchemaRegistry(defaults=False) as registry:
            await registry.set_compatibility(SUBJECT, "NONE")
            await registry.register(SUBJECT, OLD)
            await registry.register(SUBJECT, NEW)
            bus = EventBus(new_backend(), registry=registry)
            got: list[tuple[Any, Any]] = []
            failed: list[Any] = []
            dead = f"{topic}.dlq"
            await bus.subscribe(
                topic, lambda e: got.append((e.payload["order"], e.headers.get(WRITER_SCHEMA)))
            )
            await bus.subscribe(dead, lambda e: failed.append(e.payload))
            older = {WRITER_SCHEMA: f"{SUBJECT}/1", "team": "sales"}
            await bus.publish(topic, Event("order.created", None, {"order": 1}, headers=older))
            await bus.publish(topic, Event("order.created", None, {"order": "two", "at": "noon"}))
            await until(lambda: len(got) + len(failed) == 2)
            assert failed == [], "the version that the event was written with did not arrive"
            assert got == [(1, f"{SUBJECT}/1"), ("two", f"{SUBJECT}/2")]
            await bus.close()
