"""Counters and durations, as the SDK and a collector read them."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics import Histogram
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricExporter,
    MetricExportResult,
    MetricsData,
)

from dimesh import Event
from dimesh.bus.options import SubscriptionOptions
from dimesh.bus.retry import RetryPolicy
from dimesh.spi.interceptor import Handling, Publishing
from dimesh_otel import Telemetry, conventions
from dimesh_otel.durations import WithDurations
from dimesh_otel.metrics import MOST, Metrics
from dimesh_otel.spans import SCOPE

ORDERS = {"messaging.system": "dimesh", "messaging.destination.name": "orders"}


async def test_what_is_published_and_handled(measured: Any, new_bus: Any) -> None:
    bus = new_bus(Telemetry(meter_provider=measured.provider))

    async def handle(event: Event) -> None:
        if event.payload == 2:
            raise LookupError("no such order")

    once = SubscriptionOptions(retry=RetryPolicy(attempts=1))
    await bus.subscribe("orders", handle, "charging", options=once)
    await bus.publish("orders", Event("order.created", None, 1))
    await bus.publish_many("orders", [Event("order.created", None, n) for n in (2, 3)])
    await bus.idle()
    points = measured.points()
    publish = ORDERS | {"messaging.operation.name": "publish"}
    process = ORDERS | {"messaging.operation.name": "process", "messaging.consumer.group.name": "charging"}
    failed = process | {"error.type": "LookupError"}
    sent = {frozenset(p.attributes.items()): p.value for p in points["messaging.client.sent.messages"]}
    assert sent == {frozenset(publish.items()): 3}
    consumed = {
        frozenset(p.attributes.items()): p.value for p in points["messaging.client.consumed.messages"]
    }
    assert consumed == {frozenset(process.items()): 2, frozenset(failed.items()): 1}
    (calls,) = points["messaging.client.operation.duration"]
    assert (calls.count, tuple(calls.explicit_bounds)) == (2, conventions.BOUNDARIES)
    assert 0 < calls.sum < 60
    assert {p.count for p in points["messaging.process.duration"]} == {2, 1}


async def test_a_publish_that_fails_is_counted_by_its_class(measured: Any) -> None:
    async def refuse(events: Any) -> Any:
        raise LookupError("no")

    telemetry = Telemetry(meter_provider=measured.provider)
    with pytest.raises(LookupError):
        await telemetry.publish(Publishing("orders", "publish"), [Event("a.b")], refuse)
    (point,) = measured.points()["messaging.client.sent.messages"]
    assert point.attributes["error.type"] == "LookupError"


class Kept(MetricExporter):
    """An exporter that keeps the points of one histogram."""

    def __init__(self, temporality: AggregationTemporality) -> None:
        super().__init__({Histogram: temporality})
        self.points: list[Any] = []
        self.kinds: list[Any] = []

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 0, **kwargs: Any
    ) -> MetricExportResult:
        for resource in metrics_data.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == conventions.PROCESS_DURATION:
                        self.points.append(metric.data.data_points)
                        self.kinds.append(metric.data.aggregation_temporality)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 0) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 0, **kwargs: Any) -> None: ...


@pytest.mark.parametrize("temporality", [AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA])
def test_own_buckets_are_exported_as_a_histogram(temporality: AggregationTemporality) -> None:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    counted, kept = Metrics(), Kept(temporality)
    reader = PeriodicExportingMetricReader(WithDurations(kept, SCOPE, counted.durations), float("inf"))
    provider = MeterProvider([reader], shutdown_on_exit=False)
    counted.attach(provider, SCOPE, own_buckets=True)
    handling = Handling("orders", "s", "charging", "f", False)
    counted.handled(handling, 1, 0.004, None)
    counted.handled(handling, 1, 0.2, None)
    provider.force_flush()
    counted.handled(handling, 1, 99.0, None)
    provider.force_flush()
    provider.force_flush()
    provider.shutdown()
    delta = temporality is AggregationTemporality.DELTA
    assert set(kept.kinds) == {temporality}
    first, second = kept.points[0][0], kept.points[1][0]
    assert (first.count, first.sum) == (2, pytest.approx(0.204))
    assert (second.count, second.sum) == ((1, 99.0) if delta else (3, pytest.approx(99.204)))
    assert second.bucket_counts[-1] == 1
    assert len(second.bucket_counts) == len(second.explicit_bounds) + 1
    assert second.start_time_unix_nano == (first.time_unix_nano if delta else first.start_time_unix_nano)
    assert len(kept.points) >= (2 if delta else 3)  # nothing new is no point of a delta


def test_names_without_end_are_counted_together(measured: Any) -> None:
    telemetry = Telemetry(meter_provider=measured.provider)
    metrics = telemetry.metrics
    assert metrics is not None
    for n in range(MOST + 100):
        metrics.published(Publishing(f"topic-{n}", "publish"), 1, 0.001, None)
        metrics.count(conventions.GAPS, f"source-{n}")
    points = measured.points()
    sent = {p.attributes["messaging.destination.name"]: p.value for p in points[conventions.SENT]}
    assert (len(sent), sent["_other"]) == (MOST + 1, 100)
    gaps = {p.attributes["dimesh.source"]: p.value for p in points[conventions.GAPS]}
    assert (len(gaps), gaps["_other"]) == (MOST + 1, 100)
