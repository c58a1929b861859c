"""Protobuf: encoding and decoding, checks included. The floor is Protobuf's own runtime, which checks little, in the same run.

Encoding starts from a dictionary, and decoding ends with one: for the floor, by the constructor of the message class, and by a
function that was written by hand for the fields. Rounds of the two alternate; the ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from timeit import Timer
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from dimesh_protobuf import language

ROUNDS = 5 if os.environ.get("MESH_BENCH_SHORT") == "1" else 25
KINDS = ("int64", "string", "bool", "double", "repeated string")
VALUES = (123_456, "a text of some length", True, 2.5, ["x", "y"])


def case(fields: int) -> tuple[str, dict[str, Any]]:
    body = " ".join(f"{KINDS[n % 5]} field_{n} = {n + 1};" for n in range(fields))
    return f'syntax = "proto3"; message Order {{ {body} }}', {
        f"field_{n}": VALUES[n % 5] for n in range(fields)
    }


def bare(text: str) -> Any:
    """Return the message class of a schema, made without dimesh's checks."""
    proto = descriptor_pb2.FileDescriptorProto.FromString(language.parse(text).file.proto.SerializeToString())
    proto.name = "bare.proto"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(proto.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Order"))


def by_hand(fields: int) -> Callable[[Any], dict[str, Any]]:
    items = ", ".join(
        f"'field_{n}': list(m.field_{n})" if n % 5 == 4 else f"'field_{n}': m.field_{n}"
        for n in range(fields)
    )
    made: Callable[[Any], dict[str, Any]] = eval(f"lambda m: {{{items}}}")  # noqa: S307 - fields of this file
    return made


def compare(name: str, ours: Callable[[], Any], floor: Callable[[], Any], most: float) -> dict[str, Any]:
    assert ours() == floor()
    number = max(1, int(0.02 / (Timer(floor).timeit(50) / 50)))
    pairs = [(Timer(ours).timeit(number), Timer(floor).timeit(number)) for _ in range(ROUNDS)]
    ratio = statistics.median(a / b for a, b in pairs)
    alone = min(b for _, b in pairs) / number * 1e6
    return {"name": name, "value": alone * ratio, "unit": "µs", "floor": alone, "ratio": ratio,
            "target": f"≤ {most} × Protobuf's runtime alone", "ok": ratio <= most}  # fmt: skip


def run() -> Sequence[dict[str, Any]]:
    rows = []
    for fields in (5, 100):
        text, value = case(fields)
        schema, cls, read = language.parse(text), bare(text), by_hand(fields)
        payload = schema.encode(value)

        def encode(cls: Any = cls, value: Any = value) -> bytes:
            found: bytes = cls(**value).SerializeToString()
            return found

        def decode(cls: Any = cls, payload: bytes = payload, read: Any = read) -> Any:
            return read(cls.FromString(payload))

        rows.append(compare(f"encode {fields} fields", lambda s=schema, v=value: s.encode(v), encode, 1.8))
        rows.append(compare(f"decode {fields} fields", lambda s=schema, p=payload: s.decode(p), decode, 1.5))
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)  # noqa: T201
