"""The cost of an event: encoding, decoding, creating, and memory.

One event with all 12 metadata fields set, a tag and a JSON payload of 313 bytes. Times are µs, the best of many
short runs, so that another busy process does not count. Each floor does the same work without dimesh.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import msgspec

from dimesh.events import Event, EventMetadata
from dimesh.events.codec import encode_header, encode_json
from dimesh.events.event import decode_event

SHORT = os.environ.get("MESH_BENCH_SHORT") == "1"
NUMBER = 500 if SHORT else 2_000
"""The number of calls in a run."""
REPEAT = 5 if SHORT else 30
"""The number of runs, of which the fastest counts."""
HELD = 1_000 if SHORT else 5_000
"""The number of events that are held at once to measure their memory."""


@dataclass
class _Plain:
    event_id: str
    trace_id: str
    span_id: str
    parent_span_id: str
    source_pillar: str
    source_agent: str
    target_pillar: str
    target_agent: str
    timestamp: datetime
    priority: str
    correlation_id: str
    causation_id: str
    tags: dict[str, str]


class _Bare(msgspec.Struct, array_like=True):
    event_type: str
    schema_version: str
    metadata: _Plain


@dataclass
class _PlainEvent:
    event_type: str
    metadata: _Plain
    payload: Any
    schema_version: str


def _sample() -> Event:
    metadata = EventMetadata(
        span_id="a" * 16,
        parent_span_id="b" * 16,
        source_pillar="Growth Engine",
        source_agent="marketing_agent",
        target_pillar="Customer Success",
        target_agent="success_agent",
        correlation_id="c" * 36,
        causation_id="d" * 36,
        tags={"campaign": "spring"},
    )
    return Event("deal.won", metadata, {"campaign_id": "camp_001", "x": "y" * 280})


def _best(run: Callable[[], object], number: int = NUMBER, repeat: int = REPEAT) -> float:
    """Return the shortest time of a call, in µs."""
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        for _ in range(number):
            run()
        best = min(best, time.perf_counter() - start)
    return best / number * 1e6


def _held(header: bytes, data: bytes) -> float:
    """Return the bytes that a decoded event holds, its payload included."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        events = [decode_event(header, bytes(bytearray(data))) for _ in range(HELD)]
        return (tracemalloc.get_traced_memory()[0] - before) / len(events)
    finally:
        tracemalloc.stop()


def _entry(name: str, value: float, unit: str, floor: float, target: float) -> dict[str, Any]:
    return {
        "name": name,
        "value": round(value, 3),
        "unit": unit,
        "floor": round(floor, 3),
        "ratio": round(value / floor, 2),
        "target": f"≤ {target:,g}",
        "ok": value <= target,
    }


def run() -> list[dict[str, Any]]:
    """Measure; each entry has name, value, unit, floor, ratio (value / floor) and target (the highest allowed value)."""
    event = _sample()
    header, data, text = encode_header(event), event.data, encode_json(event)
    fields = {name: getattr(event.metadata, name) for name in EventMetadata.__struct_fields__}
    plain = _Plain(**fields | {"priority": "normal", "tags": dict(event.metadata.tags)})

    bare = _Bare("deal.won", "1.0.0", plain)
    pack = msgspec.msgpack.Encoder().encode
    unpack = msgspec.msgpack.Decoder(_Bare).decode
    packed = pack(bare)
    compact_floor = _best(lambda: pack(bare)) + _best(lambda: unpack(packed))

    whole = _PlainEvent("deal.won", plain, event.payload, "1.0.0")
    written = json.dumps(dataclasses.asdict(whole), default=str)
    json_floor = _best(lambda: json.dumps(dataclasses.asdict(whole), default=str)) + _best(
        lambda: json.loads(written)
    )

    payload = event.payload
    compact = _best(lambda: encode_header(event)) + _best(lambda: decode_event(header, data))
    as_json = _best(lambda: encode_json(event)) + _best(lambda: Event.from_json(text))
    make_floor = _best(
        lambda: (_Plain(**fields | {"timestamp": datetime.now(timezone.utc)}), json.dumps(payload))  # noqa: UP017
    )
    make = _best(
        lambda: Event(
            "deal.won",
            EventMetadata(source_pillar="Growth Engine", source_agent="bot", tags={"a": "b"}),
            payload,
        )
    )
    raw = len(header) + len(data)
    return [
        _entry("events: compact encode + decode", compact, "µs", compact_floor, 3.0),
        _entry("events: JSON encode + decode", as_json, "µs", json_floor, 6.0),
        _entry("events: make one", make, "µs", make_floor, 6.0),
        _entry("events: held per event", _held(header, data), "B", raw, 1_500),
    ]
