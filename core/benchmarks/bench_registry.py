"""The registry: the cost of validation above the bare engine, of a registered version, of parsing and of a comparison.

The floors are jsonschema-rs alone and a compiled ``jsonschema`` on the same schema and document, in the same run.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jsonschema
import jsonschema_rs

from dimesh import Event, LocalSchemaRegistry, SchemaEvolutionHelper
from dimesh.bus.door import Operation
from dimesh.bus.schemas import SchemaCheck
from dimesh.clock import SystemClock
from dimesh.events import strictjson
from dimesh.registry.jsonschema.language import JsonSchema
from dimesh.registry.jsonschema.parsed import ParsedJsonSchema
from dimesh.spi.interceptor import Handling

SHORT = os.environ.get("MESH_BENCH_SHORT") == "1"
ROUNDS = 2_000 if SHORT else 50_000

SMALL: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "maxLength": 40},
        "amount": {"type": "number", "minimum": 0},
        "currency": {"enum": ["EUR", "USD"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "note": {"type": ["string", "null"]},
    },
    "required": ["id", "amount"],
}
SMALL_VALUE = {"id": "o-1", "amount": 12.5, "currency": "EUR", "tags": ["a", "b"], "note": None}
KINDS: list[tuple[dict[str, Any], Any]] = [
    ({"type": "string", "maxLength": 50}, "some text"),
    ({"type": "integer", "minimum": 0}, 7),
    ({"type": "number"}, 1.5),
    ({"enum": ["a", "b", "c"]}, "b"),
    ({"type": "array", "items": {"type": "string"}}, ["x", "y"]),
    ({"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}, {"x": 1}),
]
LARGE: dict[str, Any] = {
    "type": "object",
    "properties": {f"f{n}": KINDS[n % len(KINDS)][0] for n in range(100)},
    "required": ["f0", "f1"],
}
LARGE_VALUE = {f"f{n}": KINDS[n % len(KINDS)][1] for n in range(100)}


def _per_call(call: Callable[[], Any], rounds: int) -> float:
    """Return the microseconds of CPU time of a call, the best of five."""
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(rounds):
            call()
        best = min(best, time.process_time() - began)
    return best / rounds * 1e6


def _validation(name: str, schema: dict[str, Any], value: Any, rounds: int) -> list[dict[str, Any]]:
    ours = ParsedJsonSchema(json.dumps(schema), schema)
    engine = jsonschema_rs.Draft7Validator(schema, validate_formats=True)
    python = jsonschema.Draft7Validator(schema)
    mine = _per_call(lambda: ours.is_valid(value), rounds)
    bare = _per_call(lambda: engine.is_valid(value), rounds)
    slow = _per_call(lambda: python.is_valid(value), max(20, rounds // 200))
    return [
        {
            "name": f"{name}: validation above jsonschema-rs alone ({bare:.2f} us)",
            "value": mine - bare,
            "unit": "us",
            "target": "< 1",
            "ok": mine - bare < 1,
        },
        {
            "name": f"{name}: compiled jsonschema ({slow:.0f} us), as a multiple",
            "value": slow / mine,
            "unit": "x",
            "target": ">= 50",
            "ok": slow / mine >= 50,
        },
    ]


def _build() -> dict[str, Any]:
    text = json.dumps(LARGE)
    language = JsonSchema()
    floor = _per_call(lambda: jsonschema_rs.Draft7Validator(LARGE), 20)
    took = _per_call(lambda: language.parse(text), 20)
    return {
        "name": f"parsing 100 fields ({took / floor:.1f}x jsonschema-rs alone)",
        "value": took / 1_000,
        "unit": "ms",
        "target": "< 1",
        "ok": took < 1_000,
    }


async def _registered() -> dict[str, Any]:
    async with LocalSchemaRegistry(defaults=False) as registry:
        await registry.set_compatibility("s", "NONE")
        for n in range(50):
            await registry.register("s", {**SMALL, "title": str(n)})
        best = float("inf")
        for _ in range(5):
            began = time.process_time()
            for _ in range(ROUNDS):
                await registry.validate("s", SMALL_VALUE, 25)
            best = min(best, time.process_time() - began)
    took = best / ROUNDS * 1e6
    return {
        "name": "registry.validate of one of 50 versions",
        "value": took,
        "unit": "us",
        "target": "< 3",
        "ok": took < 3,
    }


async def _on_the_bus() -> list[dict[str, Any]]:
    """Measure the check of a bus for each event of a known type: what it adds to a publish and to a call of a handler."""
    async with LocalSchemaRegistry(defaults=False) as registry:
        await registry.register("event.order.created", SMALL)
        check = SchemaCheck(registry, SystemClock())
        event = Event("order.created", None, SMALL_VALUE)
        ((stamped,), _) = await check.outgoing("orders", Operation.PUBLISH, (event,))
        handling = Handling("orders", "s", "g", "h", False)

        async def handler(events: Any) -> None:
            return None

        async def publish() -> None:
            await check.outgoing("orders", Operation.PUBLISH, (event,))

        async def handle() -> None:
            await check.handle(handling, (stamped,), handler)

        engine = jsonschema_rs.Draft7Validator(SMALL, validate_formats=True)
        floor = _per_call(lambda: engine.is_valid(strictjson.loads(event.data)), ROUNDS)
        found = []
        for name, call in (("publish", publish), ("handle", handle)):
            best = float("inf")
            for _ in range(5):
                began = time.process_time()
                for _ in range(ROUNDS):
                    await call()
                best = min(best, time.process_time() - began)
            took = best / ROUNDS * 1e6
            found.append(
                {
                    "name": f"check at {name}, {took:.1f} us: as a multiple of parsing and jsonschema-rs ({floor:.1f} us)",
                    "value": took / floor,
                    "unit": "x",
                    "target": "< 2",
                    "ok": took < 2 * floor,
                }
            )
        return found


def _edits() -> list[dict[str, Any]]:
    properties = LARGE["properties"]

    def edited(**changes: Any) -> dict[str, Any]:
        return {**LARGE, "properties": {**properties, **changes}}

    return [
        SchemaEvolutionHelper.add_optional_field(LARGE, "n", {"type": "string"}),
        SchemaEvolutionHelper.add_required_field_with_default(LARGE, "n", {"type": "string"}, "x"),
        {**LARGE, "required": ["f0", "f1", "f2"]},
        {**LARGE, "required": ["f0"]},
        {**LARGE, "additionalProperties": False},
        edited(f2={"type": "string"}),
        edited(f1={"type": "number", "minimum": 0}),
        edited(f3={"enum": ["a", "b", "c", "d"]}),
        edited(f3={"enum": ["a"]}),
        edited(f0={"type": "string", "maxLength": 20}),
        edited(f0={"type": "string", "maxLength": 50, "pattern": "^[A-Z]"}),
        edited(f5={"type": "object", "properties": {"x": {"type": "integer"}}}),
    ]


def _comparison() -> list[dict[str, Any]]:
    language = JsonSchema()
    base = language.parse(json.dumps(LARGE))
    others = [language.parse(json.dumps(edit)) for edit in _edits()]
    language.compare(base, others[5], "tolerant")  # imports what is needed
    took: list[float] = []
    undecided = 0
    for _ in range(1 if SHORT else 5):
        for other in others:
            for writer, reader in ((base, other), (other, base)):
                for policy in ("strict", "tolerant"):
                    began = time.process_time()
                    verdict = language.compare(writer, reader, policy)
                    took.append((time.process_time() - began) * 1_000)
                    undecided += verdict.outcome.value == "undecided"
    slowest = statistics.quantiles(took, n=20)[-1]
    return [
        {
            "name": f"comparison of 100 fields, p95 (p50 {statistics.median(took):.1f} ms)",
            "value": slowest,
            "unit": "ms",
            "target": "< 20",
            "ok": slowest < 20,
        },
        {
            "name": "comparisons that were decided",
            "value": 100 * (1 - undecided / len(took)),
            "unit": "%",
            "target": ">= 99",
            "ok": undecided <= len(took) / 100,
        },
    ]


def run() -> list[dict[str, Any]]:
    """Measure everything."""
    return [
        *_validation("5 fields", SMALL, SMALL_VALUE, ROUNDS),
        *_validation("100 fields", LARGE, LARGE_VALUE, ROUNDS // 10),
        asyncio.run(_registered()),
        *asyncio.run(_on_the_bus()),
        _build(),
        *_comparison(),
    ]


if __name__ == "__main__":
    for row in run():
        print(row)  # noqa: T201
