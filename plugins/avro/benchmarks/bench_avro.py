"""Avro: encoding and decoding, checks included. The floor is fastavro alone, which checks little, in the same run.

Rounds of the two alternate; the ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Sequence
from io import BytesIO
from timeit import Timer
from typing import Any

import fastavro

from dimesh_avro import language

ROUNDS = 5 if os.environ.get("MESH_BENCH_SHORT") == "1" else 25
KINDS = ("long", "string", "boolean", "double", ["null", "string"])
VALUES = (123_456, "a text of some length", True, 2.5, "x")


def case(fields: int) -> tuple[dict[str, Any], dict[str, Any]]:
    schema = {
        "type": "record",
        "name": "Order",
        "fields": [{"name": f"field_{n}", "type": KINDS[n % 5]} for n in range(fields)],
    }
    return schema, {f"field_{n}": VALUES[n % 5] for n in range(fields)}


def compare(name: str, ours: Callable[[], Any], floor: Callable[[], Any]) -> dict[str, Any]:
    assert ours() == floor()
    number = max(1, int(0.02 / (Timer(floor).timeit(50) / 50)))
    pairs = [(Timer(ours).timeit(number), Timer(floor).timeit(number)) for _ in range(ROUNDS)]
    ratio = statistics.median(a / b for a, b in pairs)
    alone = min(b for _, b in pairs) / number * 1e6
    return {"name": name, "value": alone * ratio, "unit": "µs", "floor": alone, "ratio": ratio,
            "target": "≤ 1.3 × fastavro alone", "ok": ratio <= 1.3}  # fmt: skip


def run() -> Sequence[dict[str, Any]]:
    rows = []
    for fields in (5, 100):
        data, value = case(fields)
        schema, parsed = language.parse(json.dumps(data)), fastavro.parse_schema(data)
        payload = schema.encode(value)

        def encode(parsed: Any = parsed, value: Any = value) -> bytes:
            out = BytesIO()
            fastavro.schemaless_writer(out, parsed, value)
            return out.getvalue()

        def decode(parsed: Any = parsed, payload: bytes = payload) -> Any:
            return fastavro.schemaless_reader(BytesIO(payload), parsed, None)

        rows.append(compare(f"encode {fields} fields", lambda s=schema, v=value: s.encode(v), encode))
        rows.append(compare(f"decode {fields} fields", lambda s=schema, p=payload: s.decode(p), decode))
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)  # noqa: T201
