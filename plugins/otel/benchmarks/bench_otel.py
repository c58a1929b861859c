"""OpenTelemetry: what an event pays for spans and metrics.

Floor of a span: the same one, with attributes and link made beforehand, by the SDK's own ``start_as_current_span`` into the same
processor, in the same run. The targets in microseconds hold for a machine on which a span of the SDK costs 17; here they are
ratios: 0.5 is 0.03 times it, 2 is 0.1 times it. Floor of the metrics: the SDK's own counter and histogram for each event.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags

from dimesh import Event
from dimesh.spi.interceptor import Handling, Publishing
from dimesh_otel import Telemetry, conventions
from dimesh_otel.metrics import Metrics
from dimesh_otel.spans import SCOPE

SHORT = os.environ.get("MESH_BENCH_SHORT") == "1"
EVENTS = 2_000 if SHORT else 10_000
ROUNDS = 3 if SHORT else 9
BATCH = 100
WARM = 1_000
ONE = Handling("orders", "s", "charging", "handle", False)
MANY = Handling("orders", "s", "charging", "handle", True)
SENDING = Publishing("orders", "publish")
EVENT = conventions.of_event(Event("order.created", None, 1))
HANDLED = conventions.of_handling(ONE) | EVENT
CREATION = Link(SpanContext(1, 1, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)))
PUBLISHED = conventions.of_publishing(SENDING, "send") | EVENT
ATTRIBUTES = {f"messaging.attribute.{n}": f"value-{n}" for n in range(6)}

Call = Callable[[Sequence[Sequence[Event]]], Awaitable[None]]


async def last(events: Sequence[Event]) -> Any:
    return ()


async def bare(batches: Sequence[Sequence[Event]]) -> None:
    for batch in batches:
        await last(batch)


def handling(telemetry: Telemetry, what: Handling = ONE) -> Call:
    async def call(batches: Sequence[Sequence[Event]]) -> None:
        for batch in batches:
            await telemetry.handle(what, batch, last)

    return call


def publishing(telemetry: Telemetry) -> Call:
    async def call(batches: Sequence[Sequence[Event]]) -> None:
        for batch in batches:
            await telemetry.publish(SENDING, batch, last)

    return call


def sdk_span(
    provider: TracerProvider, kind: SpanKind, attributes: conventions.Labels, links: Sequence[Link] = ()
) -> Call:
    tracer = provider.get_tracer("floor")

    async def call(batches: Sequence[Sequence[Event]]) -> None:
        for batch in batches:
            with tracer.start_as_current_span("process orders", None, kind, attributes, links):
                await last(batch)

    return call


def sdk_metrics(provider: MeterProvider) -> Call:
    meter = provider.get_meter("floor")
    counter, histogram = meter.create_counter("events"), meter.create_histogram("seconds")

    async def call(batches: Sequence[Sequence[Event]]) -> None:
        for batch in batches:
            await last(batch)
            counter.add(1, ATTRIBUTES)
            histogram.record(0.01, ATTRIBUTES)

    return call


async def measure(calls: dict[str, tuple[Call, int]]) -> dict[str, float]:
    """Return by name the least CPU microseconds of an event, over rounds in turn."""
    least: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, (call, size) in calls.items():
            # Few events, again and again: where they are handled, they have just been decoded, and are in the processor's cache.
            events = [Event("order.created", None, n) for n in range(WARM)] * (EVENTS // WARM)
            batches = [events[at : at + size] for at in range(0, EVENTS, size)]
            gc.collect()
            began = time.process_time()
            await asyncio.create_task(call(batches))
            spent = (time.process_time() - began) / EVENTS * 1e6
            least[name] = min(spent, least.get(name, spent))
    return least


def run() -> list[dict[str, Any]]:
    """Measure the interceptor around a handler and a publish that do nothing."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SpanProcessor())  # ends spans, and keeps none
    meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    own = Telemetry()
    own.metrics = Metrics()
    own.metrics.attach(MeterProvider(shutdown_on_exit=False), SCOPE, own_buckets=True)
    whole = Telemetry(tracer_provider=provider)
    got = asyncio.run(
        measure(
            {
                "bare": (bare, 1),
                "bare batch": (bare, BATCH),
                "sdk handle": (sdk_span(provider, SpanKind.CONSUMER, HANDLED, [CREATION]), 1),
                "sdk publish": (sdk_span(provider, SpanKind.PRODUCER, PUBLISHED), 1),
                "sdk metrics": (sdk_metrics(meters), 1),
                "handle, 1 %": (handling(Telemetry(tracer_provider=provider, sample=0.01)), 1),
                "publish, 1 %": (publishing(Telemetry(tracer_provider=provider, sample=0.01)), 1),
                "handle": (handling(whole), 1),
                "publish": (publishing(whole), 1),
                "batch": (handling(whole, MANY), BATCH),
                "metrics": (handling(own), 1),
            }
        )
    )
    spans = {name: got[f"sdk {name}"] - got["bare"] for name in ("handle", "publish")}

    def row(name: str, value: float, floor: float, target: str, ok: bool) -> dict[str, Any]:
        ratio = value / floor
        return {"name": name, "value": value, "unit": "µs CPU/event", "floor": floor, "ratio": ratio,
                "target": target, "ok": ok}  # fmt: skip

    rows = []
    for name, span in spans.items():
        extra = got[f"{name}, 1 %"] - got["bare"]
        rows.append(row(f"tracing sampled at 1 %, {name}", extra, span, "≤ 0.03 times", extra <= 0.03 * span))
    for name, span in spans.items():
        extra = got[name] - got["bare"]
        rows.append(row(f"one span an event, {name}", extra, span, "≤ 1.3 times", extra <= 1.3 * span))
    extra = got["batch"] - got["bare batch"]
    span = spans["handle"]
    rows.append(row(f"one span for {BATCH} events, handle", extra, span, "≤ 0.1 times", extra <= 0.1 * span))
    extra = got["metrics"] - got["bare"]
    rows.append(row("metrics in own integers", extra, got["sdk metrics"] - got["bare"], "", True))
    rows[-1]["ok"] = None
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)  # noqa: T201
