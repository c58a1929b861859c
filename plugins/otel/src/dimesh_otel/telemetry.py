"""The interceptor: spans and metrics around everything that a bus publishes and handles."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from time import perf_counter
from typing import Any

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from dimesh.errors import ConfigurationError
from dimesh.events import Event
from dimesh.spi.interceptor import HandleNext, Handling, Publishing, PublishNext
from dimesh.spi.receipt import Receipt
from dimesh_otel.metrics import Metrics
from dimesh_otel.spans import SCOPE, Spans, leave_spans


class Telemetry:
    """Traces and measures a bus: ``EventBus(…, interceptors=[Telemetry(tracer_provider=…)])``. A mesh from settings needs the
    section ``[plugins.options.otel]`` instead.

    Args:
        tracer_provider: where spans go; None: no spans.
        meter_provider: what collects the metrics; None: no metrics.
        sample: the share of the traces that spans are made for, 0 to 1. An event that is published inside a span goes the way of
            that span.
        create_spans: whether each event of a batch has a span of its own.

    Raises:
        ConfigurationError: ``sample`` is out of range.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        sample: float = 1.0,
        create_spans: bool = True,
    ) -> None:
        if not 0 <= sample <= 1:
            raise ConfigurationError("sample must be a share from 0 to 1")
        self.spans: Spans | None = None
        """What makes spans; None: nothing does."""
        self.metrics: Metrics | None = None
        """What counts; None: nothing does."""
        if tracer_provider is not None and sample > 0:
            self.spans = Spans(tracer_provider, sample, create_spans)
        if meter_provider is not None:
            self.metrics = Metrics()
            self.metrics.attach(meter_provider, SCOPE, own_buckets=False)

    # Not coroutines: an event that is not traced, which is most of them, pays for no further frame.

    def publish(
        self, publishing: Publishing, events: Sequence[Event], call_next: PublishNext
    ) -> Awaitable[Sequence[Receipt]]:
        """Publish in a span if one of the events is traced, and count it."""
        spans = self.spans
        chosen = None if spans is None else spans.chosen(events)
        if self.metrics is not None:
            return self._count_publishing(self.metrics, publishing, events, chosen, call_next)
        if spans is None or not chosen:
            return call_next(events)
        return spans.publish(publishing, events, chosen, call_next)

    async def _count_publishing(
        self,
        metrics: Metrics,
        publishing: Publishing,
        events: Sequence[Event],
        chosen: Sequence[Event] | None,
        call_next: PublishNext,
    ) -> Sequence[Receipt]:
        began = perf_counter()
        try:
            if self.spans is None or not chosen:
                receipts = await call_next(events)
            else:
                receipts = await self.spans.publish(publishing, events, chosen, call_next)
        except BaseException as error:
            metrics.published(publishing, len(events), perf_counter() - began, error)
            raise
        metrics.published(publishing, len(events), perf_counter() - began, None)
        return receipts

    def handle(self, handling: Handling, events: Sequence[Event], call_next: HandleNext) -> Awaitable[Any]:
        """Call the handler in a span if one of the events is traced, and count it."""
        spans = self.spans
        chosen = None
        if spans is not None:
            leave_spans()
            chosen = spans.chosen_by_ratio(events)
        if self.metrics is not None:
            return self._count_handling(self.metrics, handling, events, chosen, call_next)
        if spans is None or not chosen:
            return call_next(events)
        return spans.handle(handling, events, chosen, call_next)

    async def _count_handling(
        self,
        metrics: Metrics,
        handling: Handling,
        events: Sequence[Event],
        chosen: Sequence[Event] | None,
        call_next: HandleNext,
    ) -> Any:
        began = perf_counter()
        try:
            if self.spans is None or not chosen:
                result = await call_next(events)
            else:
                result = await self.spans.handle(handling, events, chosen, call_next)
        except BaseException as error:
            metrics.handled(handling, len(events), perf_counter() - began, error)
            raise
        metrics.handled(handling, len(events), perf_counter() - began, None)
        return result
