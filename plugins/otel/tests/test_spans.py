"""The spans of publishing and handling, as a collector sees them: names, kinds, attributes, and one trace from end to end."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from dimesh import Event, EventHandler, EventMetadata
from dimesh.bus.options import SubscriptionOptions
from dimesh.bus.retry import RetryPolicy
from dimesh.errors import ConfigurationError
from dimesh.spi.interceptor import Handling
from dimesh_otel import Telemetry
from dimesh_otel.sampling import Ratio

TRACE = "0af7651916cd43dd8448eb211c80319c"


async def nothing(event: Event) -> None: ...


async def test_one_trace_from_the_request_to_the_last_effect(traces: Any, new_bus: Any) -> None:
    bus = new_bus(Telemetry(tracer_provider=traces.provider))

    async def charge(event: Event) -> None:
        await bus.publish("payments", Event("payment.made"))

    await bus.subscribe("orders", charge, "charging")
    await bus.subscribe("payments", nothing, "books")
    web = traces.provider.get_tracer("web")
    with web.start_as_current_span("POST /orders") as request:
        receipt = await bus.publish("orders", Event("order.created"))
    await bus.idle()
    spans = traces.spans
    assert set(spans) == {
        "POST /orders", "publish orders", "process orders", "publish payments", "process payments"
    }  # fmt: skip
    assert {s.context.trace_id for s in spans.values()} == {request.get_span_context().trace_id}
    order = ["POST /orders", "publish orders", "process orders", "publish payments", "process payments"]
    for parent, child in pairwise(order):
        assert spans[child].parent.span_id == spans[parent].context.span_id, child
    sent, handled = spans["publish orders"], spans["process orders"]
    assert (sent.kind, handled.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert dict(sent.attributes) == {
        "messaging.system": "dimesh",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders",
        "messaging.message.id": receipt.event_id,
        "cloudevents.event_type": "order.created",
    }
    assert dict(handled.attributes) == {
        "messaging.system": "dimesh",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders",
        "messaging.consumer.group.name": "charging",
        "messaging.message.id": receipt.event_id,
        "cloudevents.event_type": "order.created",
        "dimesh.handler": charge.__qualname__,
    }
    assert [link.context.span_id for link in handled.links] == [sent.context.span_id]
    assert {s.status.status_code for s in spans.values()} == {StatusCode.UNSET}


async def test_without_a_request_the_trace_is_that_of_the_event(traces: Any, new_bus: Any) -> None:
    bus = new_bus(Telemetry(tracer_provider=traces.provider))
    got: list[Event] = []

    async def keep(event: Event) -> None:
        got.append(event)

    await bus.subscribe("orders", keep, "keeping")
    event = Event("order.created", EventMetadata(trace_id=TRACE))
    await bus.publish("orders", event)
    await bus.idle()
    sent, handled = traces.spans["publish orders"], traces.spans["process orders"]
    assert sent.parent is None
    assert f"{sent.context.trace_id:032x}" == f"{handled.context.trace_id:032x}" == TRACE
    assert handled.parent.span_id == sent.context.span_id
    # The id travels in the event, in the place from which every broker makes its traceparent.
    assert got[0].metadata.span_id == f"{sent.context.span_id:016x}"
    assert (event.metadata.span_id, got[0].event_id) == (None, event.event_id)


async def test_a_trace_id_that_is_none_of_w3c_is_left_alone(traces: Any, new_bus: Any) -> None:
    bus = new_bus(Telemetry(tracer_provider=traces.provider))
    got: list[Event] = []

    async def keep(event: Event) -> None:
        got.append(event)

    await bus.subscribe("orders", keep, "keeping")
    event = Event("order.created", EventMetadata(trace_id="order-42", span_id="step-1"))
    with traces.provider.get_tracer("web").start_as_current_span("request"):
        await bus.publish("orders", event)
    await bus.idle()
    assert got == [event]
    handled = traces.spans["process orders"]
    assert handled.parent is None
    assert handled.attributes["dimesh.trace_id"] == "order-42"
    assert handled.links == ()


async def test_an_event_of_another_trace_stays_in_it(traces: Any, new_bus: Any) -> None:
    bus = new_bus(Telemetry(tracer_provider=traces.provider))
    got: list[Event] = []

    async def keep(event: Event) -> None:
        got.append(event)

    await bus.subscribe("orders", keep, "keeping")
    event = Event("order.created", EventMetadata(trace_id=TRACE, span_id="b7ad6b7169203331"))
    with traces.provider.get_tracer("web").start_as_current_span("request"):
        await bus.publish("orders", event)
    await bus.idle()
    assert got == [event]
    sent, handled = traces.spans["publish orders"], traces.spans["process orders"]
    assert sent.parent.span_id == traces.spans["request"].context.span_id
    assert f"{handled.context.trace_id:032x} {handled.parent.span_id:016x}" == f"{TRACE} b7ad6b7169203331"


async def test_a_failure_ends_the_span_with_its_class(traces: Any, new_bus: Any) -> None:
    bus = new_bus(Telemetry(tracer_provider=traces.provider))

    async def refuse(event: Event) -> None:
        raise LookupError("no such order")

    await bus.subscribe(
        "orders", refuse, "charging", options=SubscriptionOptions(retry=RetryPolicy(attempts=2, base=0.001))
    )
    await bus.publish("orders", Event("order.created"))
    await bus.idle()
    attempts = traces.named("process orders")
    assert len(attempts) == 2
    for span in attempts:
        assert span.attributes["error.type"] == "LookupError"
        assert span.status.status_code is StatusCode.ERROR
        assert [event.name for event in span.events] == ["exception"]
    # Both attempts continue the same publish.
    assert len({span.parent.span_id for span in attempts}) == 1


async def test_a_worker_started_inside_a_span_does_not_stay_in_it(traces: Any, new_bus: Any) -> None:
    bus = new_bus(Telemetry(tracer_provider=traces.provider))

    async def answer(event: Event) -> Event:
        return Event("order.priced")

    with traces.provider.get_tracer("web").start_as_current_span("start-up") as start_up:
        await bus.subscribe("orders", answer, "pricing", produce_to="prices")
    for id in ("1" * 32, "2" * 32):
        await bus.publish("orders", Event("order.created", EventMetadata(trace_id=id)))
    await bus.idle()
    for name in ("publish orders", "process orders", "produce prices"):
        assert {f"{s.context.trace_id:032x}" for s in traces.named(name)} == {"1" * 32, "2" * 32}, name
    assert start_up.get_span_context().trace_id not in {
        s.context.trace_id for s in traces.named("process orders")
    }


# -- batches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("create_spans", [True, False])
async def test_a_batch(traces: Any, new_bus: Any, create_spans: bool) -> None:
    bus = new_bus(Telemetry(tracer_provider=traces.provider, create_spans=create_spans))
    batches: list[list[Event]] = []

    async def keep(events: list[Event]) -> None:
        batches.append(events)

    await bus.subscribe("orders", EventHandler(keep, batch_size=10, batch_wait=5.0), "keeping")
    events = [Event("order.created", EventMetadata(trace_id=TRACE)) for _ in range(9)]
    events.append(Event("order.created"))  # in a trace of its own
    receipts = await bus.publish_many("orders", events)
    await bus.idle()
    assert [e.event_id for e in batches[0]] == [e.event_id for e in events] == [r.event_id for r in receipts]
    (sent,) = traces.named("publish orders")
    (handled,) = traces.named("process orders")
    created = traces.named("create orders")
    assert sent.attributes["messaging.batch.message_count"] == 10
    assert handled.attributes["messaging.batch.message_count"] == 10
    assert "messaging.message.id" not in {**sent.attributes, **handled.attributes}
    assert handled.parent is None
    linked = [(link.context.trace_id, link.context.span_id) for link in handled.links]
    if create_spans:
        assert sent.kind is SpanKind.CLIENT
        assert f"{sent.context.trace_id:032x}" not in {e.metadata.trace_id for e in events}
        assert [s.attributes["messaging.message.id"] for s in created] == [e.event_id for e in events]
        contexts = [(s.context.trace_id, s.context.span_id) for s in created]
        assert [(link.context.trace_id, link.context.span_id) for link in sent.links] == contexts == linked
        assert [f"{s.context.trace_id:032x}" for s in created] == [e.metadata.trace_id for e in events]
    else:
        # The one span is that of all events of its trace; the tenth has a trace of its own, where nobody made a span.
        assert sent.kind is SpanKind.PRODUCER
        assert created == []
        assert linked == [(sent.context.trace_id, sent.context.span_id)] * 9


# -- sampling --------------------------------------------------------------------------------------


async def test_a_share_of_the_traces_whole_or_not_at_all(traces: Any, new_bus: Any) -> None:
    bus = new_bus(Telemetry(tracer_provider=traces.provider, sample=0.5))
    current: list[bool] = []

    async def call_a_library(event: Event) -> None:
        with traces.provider.get_tracer("library").start_as_current_span("library") as span:
            current.append(span.is_recording())
        await bus.publish("payments", Event("payment.made"))

    await bus.subscribe("orders", call_a_library, "charging", produce_to="mails")
    await bus.subscribe("payments", nothing, "books")
    for _ in range(60):
        await bus.publish("orders", Event("order.created"))
    await bus.idle()
    whole: dict[int, set[str]] = {}
    for span in traces.exporter.get_finished_spans():
        whole.setdefault(span.context.trace_id, set()).add(span.name)
    assert 10 < len(whole) < 50
    everything = {"publish orders", "process orders", "library", "publish payments", "process payments"}
    assert all(names == everything for names in whole.values())
    assert sum(current) == len(whole)


async def test_an_event_published_in_a_span_goes_its_way(traces: Any, new_bus: Any) -> None:
    bus = new_bus(Telemetry(tracer_provider=traces.provider))
    dropped = trace.NonRecordingSpan(trace.SpanContext(1, 1, False, trace.TraceFlags(0)))
    with trace.use_span(dropped):
        await bus.publish("orders", Event("order.created"))
    assert traces.spans == {}


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.37, 1.0])
def test_the_share_is_that_of_the_sdk(ratio: float) -> None:
    ours, sdk = Ratio(ratio), TraceIdRatioBased(ratio)
    for event in (Event("a.b") for _ in range(500)):
        id = event.metadata.trace_id
        theirs = sdk.should_sample(None, int(id, 16), "x").decision.is_sampled()
        assert ours.chooses(id) == theirs
    if ratio:
        assert sdk.should_sample(None, ours.new_trace_id(), "x").decision.is_sampled()


@pytest.mark.parametrize("text", ["order-42", "", "x" * 1_024, "ünïcode", "\ud800"])
def test_any_text_can_be_a_trace_id(text: str) -> None:
    assert Ratio(1.0).chooses(text)
    assert not Ratio(0.0).chooses(text)
    assert Ratio(0.5).chooses(text) == Ratio(0.5).chooses(text)


async def test_the_sampler_of_the_application_decides_too(new_traces: Any, new_bus: Any) -> None:
    traces = new_traces(sampler=ALWAYS_OFF)
    bus = new_bus(Telemetry(tracer_provider=traces.provider))
    got: list[Event] = []

    async def keep(event: Event) -> None:
        got.append(event)

    await bus.subscribe("orders", keep, "keeping")
    await bus.publish("orders", Event("order.created"))
    await bus.idle()
    assert traces.spans == {}
    assert got[0].metadata.span_id is None


async def test_a_provider_that_is_not_of_the_sdk(new_bus: Any) -> None:
    bus = new_bus(Telemetry(tracer_provider=trace.NoOpTracerProvider()))
    got: list[Event] = []

    async def keep(event: Event) -> None:
        got.append(event)

    await bus.subscribe("orders", keep, "keeping")
    await bus.publish("orders", Event("order.created"))
    await bus.publish_many("orders", [Event("order.created")] * 3)
    await bus.idle()
    assert len(got) >= 2


def test_a_share_out_of_range() -> None:
    with pytest.raises(ConfigurationError, match="sample must be a share from 0 to 1"):
        Telemetry(sample=1.5)


async def test_names_of_temporary_topics_are_no_names_of_spans(traces: Any, new_bus: Any) -> None:
    bus = new_bus(Telemetry(tracer_provider=traces.provider))

    async def answer(event: Event) -> Event:
        return Event("order.priced")

    await bus.subscribe("prices", answer, "pricing")
    await bus.request("prices", Event("order.created"))
    await bus.idle()
    names = {span.name for span in traces.exporter.get_finished_spans()}
    assert names == {"request prices", "process prices", "reply", "process"}
    assert traces.spans["reply"].attributes["messaging.destination.temporary"] is True


def test_a_handling_without_a_group() -> None:
    from dimesh_otel import conventions

    labels = conventions.of_handling(Handling("orders", "s", None, "f", False))
    assert "messaging.consumer.group.name" not in labels
