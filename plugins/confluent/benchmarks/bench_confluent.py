"""Payloads in Confluent's prefix form: the schema is known, the value is checked, encoded and framed, and back.

The floor is confluent-kafka's JSON serializer and deserializer, warm, in the same run, against the same registry of ours. Rounds
of the two alternate; the ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from timeit import Timer
from typing import Any

from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from dimesh import ConfluentSchemaRegistry, LocalSchemaRegistry
from dimesh.http.host import HttpHost
from dimesh.registry.rest import RegistryApp
from dimesh_confluent import wire

ROUNDS = 5 if os.environ.get("MESH_BENCH_SHORT") == "1" else 15
KINDS: list[tuple[dict[str, Any], Any]] = [
    ({"type": "string", "maxLength": 50}, "some text"),
    ({"type": "integer", "minimum": 0}, 7),
    ({"type": "number"}, 1.5),
    ({"enum": ["a", "b", "c"]}, "b"),
    ({"type": "boolean"}, True),
]


def case(fields: int) -> tuple[dict[str, Any], dict[str, Any]]:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": f"Order{fields}",
        "type": "object",
        "properties": {f"field_{n}": KINDS[n % 5][0] for n in range(fields)},
        "required": ["field_0"],
    }
    return schema, {f"field_{n}": KINDS[n % 5][1] for n in range(fields)}


@contextmanager
def served() -> Iterator[str]:
    """Serve a registry in a thread, and yield its address."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    found: list[str] = []

    async def serve() -> None:
        async with HttpHost([("", RegistryApp(LocalSchemaRegistry()))], port=0) as host:
            found.append(host.url)
            ready.set()
            await stop.wait()

    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    ready.wait(30)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)


def compare(name: str, ours: Callable[[], Any], floor: Callable[[], Any], target: int) -> dict[str, Any]:
    number = max(1, int(0.05 / (Timer(floor).timeit(20) / 20)))
    pairs = [(Timer(ours).timeit(number * 10) / 10, Timer(floor).timeit(number)) for _ in range(ROUNDS)]
    ratio = statistics.median(b / a for a, b in pairs)
    alone = min(b for _, b in pairs) / number * 1e6
    return {"name": name, "value": alone / ratio, "unit": "µs", "floor": alone, "ratio": ratio,
            "target": f"≥ {target} × confluent-kafka", "ok": ratio >= target}  # fmt: skip


def run() -> Sequence[dict[str, Any]]:
    rows = []
    with served() as url, SchemaRegistryClient({"url": url}) as client:
        for fields in (5, 100):
            data, value = case(fields)
            context = SerializationContext(f"orders{fields}", MessageField.VALUE)
            serialize = JSONSerializer(json.dumps(data), client)
            deserialize = JSONDeserializer(None, schema_registry_client=client)

            async def known(fields: int = fields) -> Any:
                async with ConfluentSchemaRegistry(url) as registry:
                    return await registry.registered(f"orders{fields}-value")

            framed = serialize(value, context)
            registered = asyncio.run(known())
            schema, head = registered.schema, wire.prefix(registered.stored.schema_id)

            def write(schema: Any = schema, head: bytes = head, value: Any = value) -> bytes:
                return head + schema.encode(value)

            def read(schema: Any = schema, data: bytes = framed) -> Any:
                return schema.decode(data[wire.read_prefix(data).size :])

            assert json.loads(write()[5:]) == json.loads(framed[5:])
            assert write()[:5] == framed[:5]
            assert read() == deserialize(framed, context) == value

            def floor_write(s: Any = serialize, v: Any = value, c: Any = context) -> Any:
                return s(v, c)

            def floor_read(d: Any = deserialize, f: bytes = framed, c: Any = context) -> Any:
                return d(f, c)

            def both(write: Any = write, read: Any = read) -> Any:
                return read(data=write())

            def floor_both(write: Any = floor_write, read: Any = floor_read) -> Any:
                return read(f=write())

            rows.append(compare(f"serialize {fields} fields", write, floor_write, 20))
            rows.append(compare(f"deserialize {fields} fields", read, floor_read, 10))
            rows.append(compare(f"serialize and deserialize {fields} fields", both, floor_both, 20))
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)  # noqa: T201
