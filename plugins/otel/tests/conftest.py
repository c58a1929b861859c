"""Providers of the SDK that keep what they are given, and a bus between them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from opentelemetry import context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dimesh import EventBus, EventBusFactory
from dimesh_otel import Telemetry


class Traces:
    """A provider, and the spans that have ended."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        """By name; the names of a test differ."""
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]


class Measured:
    """A provider, and what it collects when asked."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def points(self) -> dict[str, list[Any]]:
        data = self.reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def new_traces() -> type[Traces]:
    return Traces


@pytest.fixture
def traces() -> Traces:
    return Traces()


@pytest.fixture
def measured() -> Measured:
    return Measured()


@pytest.fixture(autouse=True)
def own_context() -> Iterator[None]:
    """No test leaves a span behind for the next one."""
    token = context.attach(context.Context())
    yield
    context.detach(token)


@pytest.fixture
async def new_bus() -> AsyncIterator[Callable[[Telemetry], EventBus]]:
    made: list[EventBus] = []

    def new(telemetry: Telemetry) -> EventBus:
        made.append(EventBusFactory.create("memory", interceptors=[telemetry]))
        return made[-1]

    yield new
    for bus in made:
        await bus.close()
