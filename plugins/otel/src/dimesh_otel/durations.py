"""Durations in buckets of our own, which cost a tenth of the SDK's histograms, and the exporter that adds them to what the SDK
collects: the API has no histogram that is read only when somebody asks.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from opentelemetry.sdk.metrics import Histogram
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    ScopeMetrics,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData

from dimesh_otel import conventions


class Buckets:
    """The durations of one set of labels."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(conventions.BOUNDARIES) + 1)
        """The number of durations in each bucket; the last one has no upper bound."""
        self.total = 0.0
        """The sum of all durations in seconds."""

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self.counts[bisect_left(conventions.BOUNDARIES, seconds)] += 1
        self.total += seconds


@dataclass(slots=True)
class _Sent:
    """What was exported of one set of labels last."""

    counts: list[int]
    total: float
    at: int


class WithDurations(MetricExporter):
    """Exports with another exporter, and adds histograms.

    Args:
        exporter: the other exporter.
        scope: the name of the instrumentation scope that the histograms are added to.
        read: returns the histograms by name, description and labels.
    """

    def __init__(
        self,
        exporter: MetricExporter,
        scope: str,
        read: Callable[[], list[tuple[str, str, list[tuple[conventions.Labels, Buckets]]]]],
    ) -> None:
        # Attributes without a public name; the SDK's own reader asks every exporter for them.
        temporality = exporter._preferred_temporality or {}
        super().__init__(temporality, exporter._preferred_aggregation)
        self._exporter = exporter
        self._scope = scope
        self._read = read
        self._delta = temporality.get(Histogram) == AggregationTemporality.DELTA
        self._started = time.time_ns()
        self._sent: dict[tuple[str, int], _Sent] = {}

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Export what the SDK collected and the histograms."""
        histograms = self._histograms()
        resources = [
            replace(
                resource,
                scope_metrics=[self._extended(scope, histograms) for scope in resource.scope_metrics],
            )
            for resource in metrics_data.resource_metrics
        ]
        data = MetricsData(resources)
        return self._exporter.export(data, timeout_millis=timeout_millis, **kwargs)

    def _extended(self, scope: ScopeMetrics, histograms: list[Metric]) -> ScopeMetrics:
        if scope.scope.name != self._scope:
            return scope
        return replace(scope, metrics=[*scope.metrics, *histograms])

    def _histograms(self) -> list[Metric]:
        now = time.time_ns()
        temporality = AggregationTemporality.DELTA if self._delta else AggregationTemporality.CUMULATIVE
        metrics = []
        for name, description, series in self._read():
            points = [
                point for labels, buckets in series if (point := self._point(name, labels, buckets, now))
            ]
            if points:
                data = HistogramData(points, temporality)
                metrics.append(Metric(name, description, conventions.SECONDS, data))
        return metrics

    def _point(
        self, name: str, labels: conventions.Labels, buckets: Buckets, now: int
    ) -> HistogramDataPoint | None:
        counts, total, since = list(buckets.counts), buckets.total, self._started
        if self._delta:
            key = name, id(buckets)
            sent = self._sent.get(key)
            self._sent[key] = _Sent(counts, total, now)
            if sent is not None:
                counts = [new - old for new, old in zip(counts, sent.counts, strict=True)]
                total, since = total - sent.total, sent.at
        if not any(counts):
            return None
        return HistogramDataPoint(
            attributes=labels,
            start_time_unix_nano=since,
            time_unix_nano=now,
            count=sum(counts),
            sum=total,
            bucket_counts=counts,
            explicit_bounds=conventions.BOUNDARIES,
            min=None,  # type: ignore[arg-type] # optional on the wire, and not kept
            max=None,  # type: ignore[arg-type]
        )

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Flush the other exporter."""
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Shut down the other exporter."""
        self._exporter.shutdown(timeout_millis, **kwargs)
