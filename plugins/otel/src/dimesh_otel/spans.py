"""Makes the spans of publishing and of handling."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from copy import copy
from types import TracebackType
from typing import Any, Final

from msgspec.structs import force_setattr
from opentelemetry import context as contexts
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TracerProvider,
    get_current_span,
    set_span_in_context,
)

from dimesh.events import Event
from dimesh.events.trace import is_w3c
from dimesh.spi.interceptor import HandleNext, Handling, Publishing, PublishNext
from dimesh.spi.receipt import Receipt
from dimesh_otel import conventions
from dimesh_otel.ids import EventIds
from dimesh_otel.sampling import Ratio

SCOPE: Final = "dimesh"
_MOST: Final = 1_000
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_EMPTY: Final = contexts.Context()
# What a worker of the bus runs in. Where an event is not traced, the handler does, too: spans of libraries that it calls have a
# parent that is not sampled, and are dropped like it.
_NOTHING: Final = set_span_in_context(
    NonRecordingSpan(SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.DEFAULT))), _EMPTY
)


class Spans:
    """Makes spans around publishing and handling.

    Args:
        provider: where the tracer comes from.
        ratio: the share of the traces, 0 to 1.
        create_spans: whether each event of a batch has a span of its own.
    """

    def __init__(self, provider: TracerProvider, ratio: float, create_spans: bool) -> None:
        self._tracer: Tracer = provider.get_tracer(SCOPE)
        self._ids = EventIds.of(self._tracer)
        self._ratio = Ratio(ratio)
        self._create_spans = create_spans
        self._known: dict[tuple[str, str, str, str | None], tuple[str, conventions.Labels]] = {}

    # -- publishing ------------------------------------------------------------------------------

    def chosen(self, events: Sequence[Event]) -> Sequence[Event]:
        """Return those of the events that are traced where they are published. Inside a span, all of them go its way."""
        current = contexts.get_current()
        if current and current is not _NOTHING:
            around = get_current_span(current).get_span_context()
            if around.is_valid:
                return events if around.trace_flags.sampled else ()
        return self.chosen_by_ratio(events)

    def chosen_by_ratio(self, events: Sequence[Event]) -> Sequence[Event]:
        """Return those of the events whose trace is one of the share."""
        if len(events) == 1:
            trace_id = events[0].metadata.trace_id
            if len(trace_id) == 32:  # Ratio.chooses, spelled out: this is all that most events pay for
                return events if trace_id[16:] < self._ratio.bound else ()
            return events if self._ratio.chooses(trace_id) else ()
        chooses = self._ratio.chooses
        return [event for event in events if chooses(event.metadata.trace_id)]

    async def publish(
        self, publishing: Publishing, events: Sequence[Event], chosen: Sequence[Event], call_next: PublishNext
    ) -> Sequence[Receipt]:
        """Publish in a span, which the chosen events carry on to whoever handles them."""
        around = get_current_span(_current_context()).get_span_context()
        name, attributes = self._of_publishing(publishing, "send", publishing.operation)
        if len(events) == 1:
            (event,) = events
            attributes = attributes | conventions.of_event(event)
            span = self._begin(name, SpanKind.PRODUCER, attributes, event, around)
            with _Current(span):
                return await call_next((_carrying(event, span, around),))
        attributes = attributes | conventions.of_batch(len(events))
        if self._create_spans:
            sent, links = self._create(publishing, events, chosen, around)
            if not around.is_valid:
                self._begin_trace(None)  # its events are of many traces
            span = self._tracer.start_span(name, _current_context(), SpanKind.CLIENT, attributes, links)
        else:
            # The context of this one span travels, so it is that of the sender.
            span = self._begin(name, SpanKind.PRODUCER, attributes, chosen[0], around)
            traced = frozenset(map(id, chosen))
            sent = [_carrying(event, span, around) if id(event) in traced else event for event in events]
        with _Current(span):
            return await call_next(sent)

    def _create(
        self, publishing: Publishing, events: Sequence[Event], chosen: Sequence[Event], around: SpanContext
    ) -> tuple[list[Event], list[Link]]:
        """Return the events, each that is traced with a span of its own, and links to these spans."""
        name, attributes = self._of_publishing(publishing, "create", "create")
        traced = frozenset(map(id, chosen))
        sent, links = [], []
        for event in events:
            if id(event) in traced:
                own = attributes | conventions.of_event(event)
                span = self._begin(name, SpanKind.PRODUCER, own, event, around)
                span.end()
                links.append(Link(span.get_span_context()))
                event = _carrying(event, span, around)
            sent.append(event)
        return sent, links

    def _begin(
        self,
        name: str,
        kind: SpanKind,
        attributes: conventions.Labels,
        event: Event,
        around: SpanContext,
    ) -> Span:
        """Start a span in the span that is current; without one, in the trace of the event, behind what caused the event."""
        context = _current_context()
        if not around.is_valid:
            metadata = event.metadata
            cause = _remote(metadata.trace_id, metadata.parent_span_id or metadata.span_id)
            context = self._behind(context, cause, metadata.trace_id)
        return self._tracer.start_span(name, context, kind, attributes)

    def _behind(
        self, current: contexts.Context, remote: SpanContext | None, trace_id: str
    ) -> contexts.Context:
        """Return the context to start a span in that continues a span of another process. Without such a span it begins the trace
        of the event, or one of its own if the id of that trace is not of W3C trace context.
        """
        if remote is not None:
            return set_span_in_context(NonRecordingSpan(remote), current)
        self._begin_trace(int(trace_id, 16) if _is_w3c(trace_id) else None)
        return current

    def _begin_trace(self, trace_id: int | None) -> None:
        if self._ids is not None:
            self._ids.give(self._ratio.new_trace_id() if trace_id is None else trace_id)

    # -- handling --------------------------------------------------------------------------------

    async def handle(
        self, handling: Handling, events: Sequence[Event], chosen: Sequence[Event], call_next: HandleNext
    ) -> Any:
        """Handle in a span that continues the span of publishing, or is linked to those of the chosen events of a batch."""
        name, attributes = self._of_handling(handling)
        if len(events) == 1:
            (event,) = events
            metadata = event.metadata
            attributes = attributes | conventions.of_event(event)
            creation = _remote(metadata.trace_id, metadata.span_id)
            if creation is None and not _is_w3c(metadata.trace_id):
                attributes[conventions.TRACE] = metadata.trace_id
            context = self._behind(_EMPTY, creation, metadata.trace_id)
            links = [] if creation is None else [Link(creation)]
        else:
            attributes = attributes | conventions.of_batch(len(events))
            context = _EMPTY
            self._begin_trace(None)  # its events are of many traces
            links = [
                Link(remote)
                for event in chosen
                if (remote := _remote(event.metadata.trace_id, event.metadata.span_id)) is not None
            ]
        span = self._tracer.start_span(name, context, SpanKind.CONSUMER, attributes, links)
        with _Current(span):
            return await call_next(events)

    # -- what all spans of a topic share -----------------------------------------------------------

    def _of_publishing(
        self, publishing: Publishing, operation_type: str, operation: str
    ) -> tuple[str, conventions.Labels]:
        key = operation_type, publishing.topic, operation, None
        known = self._known.get(key)
        if known is None:
            name = conventions.span_name(operation, publishing.topic)
            known = self._keep(key, name, conventions.of_publishing(publishing, operation_type))
        return known

    def _of_handling(self, handling: Handling) -> tuple[str, conventions.Labels]:
        key = "process", handling.topic, handling.handler, handling.group
        known = self._known.get(key)
        if known is None:
            name = conventions.span_name("process", handling.topic)
            known = self._keep(key, name, conventions.of_handling(handling))
        return known

    def _keep(
        self, key: tuple[str, str, str, str | None], name: str, attributes: conventions.Labels
    ) -> tuple[str, conventions.Labels]:
        if len(self._known) >= _MOST:  # names of temporary topics have no end
            self._known.clear()
        self._known[key] = name, attributes
        return name, attributes


_left: Final[ContextVar[asyncio.Task[Any] | None]] = ContextVar("dimesh_otel_left", default=None)
"""The task that has left the spans which it inherited. Asking OpenTelemetry for the current context takes five times as long."""


def leave_spans() -> None:
    """Forget the spans that a worker of the bus has inherited from whoever happened to start it: they have nothing to do with the
    events that it handles. Never undone, so that it costs the next event of the worker nothing.
    """
    task = asyncio.current_task()
    if _left.get() is not task:  # a task that a handler starts inherits the variable, and is another one
        _left.set(task)
        contexts.attach(_NOTHING)


_ANY_SPAN: Final = "1" * 16


def _is_w3c(trace_id: str) -> bool:
    return is_w3c(trace_id, _ANY_SPAN)


def _current_context() -> contexts.Context:
    current = contexts.get_current()
    return _EMPTY if current is _NOTHING else current


def _remote(trace_id: str, span_id: str | None) -> SpanContext | None:
    if span_id is None or not is_w3c(trace_id, span_id):
        return None
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=_SAMPLED)


def _carrying(event: Event, span: Span, around: SpanContext) -> Event:
    """Return the event with the span as its own, so that its handling continues there. The event joins the trace that it is
    published in only if it has no place in another one: it names no span and no cause, and its trace id is of W3C trace context.
    """
    context = span.get_span_context()
    if not context.trace_flags.sampled:  # the sampler of the application's own provider dropped it
        return event
    metadata = event.metadata
    trace_id = f"{context.trace_id:032x}"
    if metadata.trace_id != trace_id:
        rooted = (
            metadata.span_id is None and metadata.parent_span_id is None and metadata.causation_id is None
        )
        if not around.is_valid or not rooted or not _is_w3c(metadata.trace_id):
            return event
    own = copy(metadata)  # not a checked copy: both ids are valid
    force_setattr(own, "trace_id", trace_id)
    force_setattr(own, "span_id", f"{context.span_id:016x}")
    return event.replace(metadata=own)


class _Current:
    """Makes a span the current one, and ends it; an exception makes it a failed one."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> None:
        self._token = contexts.attach(set_span_in_context(self._span, _current_context()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        contexts.detach(self._token)
        span = self._span
        if error is not None:
            span.set_attribute(conventions.ERROR_TYPE, conventions.error_type(error))
            span.set_status(Status(StatusCode.ERROR))
            if isinstance(error, Exception):
                span.record_exception(error)
        span.end()
