"""Where spans and metrics go: the providers of the application if it has set them, else providers that send to a collector."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Final
from weakref import WeakSet

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from dimesh_otel.durations import WithDurations
from dimesh_otel.metrics import Metrics
from dimesh_otel.options import OtelOptions
from dimesh_otel.spans import SCOPE, Spans
from dimesh_otel.telemetry import Telemetry

log = logging.getLogger("dimesh.plugins.otel")
_ours: Final[WeakSet[TracerProvider | MeterProvider]] = WeakSet()
"""The providers that were made here. The global ones can be set once in a process: a later mesh finds those of an earlier one."""


class Pipeline:
    """The providers of one mesh.

    Args:
        options: the options of the plugin.
        mesh: the name of the mesh.
        telemetry: the interceptor of the mesh.
    """

    def __init__(self, options: OtelOptions, mesh: str, telemetry: Telemetry) -> None:
        self._options = options
        self._mesh = mesh
        self._telemetry = telemetry
        self._tracers: TracerProvider | None = None
        self._meters: MeterProvider | None = None

    def start(self) -> None:
        """Begin to trace and to count."""
        options = self._options
        if options.traces and options.sample > 0:
            provider = trace.get_tracer_provider()
            if isinstance(provider, trace.ProxyTracerProvider) or provider in _ours:
                provider = self._tracers = self._new_tracers()
                _ours.add(provider)
                if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
                    # For libraries that handlers call: their spans belong into the same traces.
                    trace.set_tracer_provider(provider)
            self._telemetry.spans = Spans(provider, options.sample, options.create_spans)
        if options.metrics:
            counted = Metrics()
            found = metrics.get_meter_provider()
            if isinstance(found, MeterProvider) and found not in _ours:
                counted.attach(found, SCOPE, own_buckets=False)
            else:
                self._meters = self._new_meters(counted)
                _ours.add(self._meters)
                counted.attach(self._meters, SCOPE, own_buckets=True)
                if not isinstance(found, MeterProvider):
                    metrics.set_meter_provider(self._meters)
            self._telemetry.metrics = counted

    def stop(self) -> None:
        """Send what is left, for as long as the options allow. What the collector did not take by then is lost."""
        self._telemetry.spans = self._telemetry.metrics = None
        providers = [p for p in (self._tracers, self._meters) if p is not None]
        self._tracers = self._meters = None
        # In threads: both can wait for a collector that does not answer for longer than a stop may take.
        threads = [
            threading.Thread(target=provider.shutdown, name="dimesh-otel-stop", daemon=True)
            for provider in providers
        ]
        for thread in threads:
            thread.start()
        until = time.monotonic() + self._options.flush
        for thread in threads:
            thread.join(max(until - time.monotonic(), 0))
        if any(thread.is_alive() for thread in threads):
            log.warning(
                "the collector of OpenTelemetry did not take the last spans and metrics within %g s; they are lost",
                self._options.flush,
            )

    def count(self, name: str, of: str) -> None:
        """Count something rare of a topic or a source."""
        if self._telemetry.metrics is not None:
            self._telemetry.metrics.count(name, of)

    def _resource(self) -> Resource:
        service = self._options.service or os.environ.get("OTEL_SERVICE_NAME") or self._mesh
        return Resource.create({SERVICE_NAME: service})

    def _address(self, signal: str) -> str | None:
        endpoint = self._options.endpoint
        return None if endpoint is None else f"{endpoint.rstrip('/')}/v1/{signal}"

    def _headers(self) -> dict[str, str] | None:
        """Return the headers of each request; None: what the variables of OpenTelemetry say."""
        return {name: value.reveal() for name, value in self._options.headers.items()} or None

    def _new_tracers(self) -> TracerProvider:
        provider = TracerProvider(
            # What dimesh asks for was chosen already; this is for spans that others begin.
            ParentBased(TraceIdRatioBased(self._options.sample)),
            self._resource(),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(self._address("traces"), headers=self._headers())
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return provider

    def _new_meters(self, counted: Metrics) -> MeterProvider:
        exporter = OTLPMetricExporter(self._address("metrics"), headers=self._headers())
        reader = PeriodicExportingMetricReader(
            WithDurations(exporter, SCOPE, counted.durations), self._options.interval * 1_000
        )
        return MeterProvider([reader], self._resource(), shutdown_on_exit=False)
