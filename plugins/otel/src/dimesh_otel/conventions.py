"""The names of OpenTelemetry's semantic conventions for messaging. No other module knows one.

The conventions are still in development (https://opentelemetry.io/docs/specs/semconv/messaging/, version 1.44), and the package
``opentelemetry-semantic-conventions`` keeps them in modules that may change with each release: so the names are written here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

    from dimesh.events import Event
    from dimesh.spi.interceptor import Handling, Publishing

SYSTEM: Final = "dimesh"
Labels: TypeAlias = "dict[str, AttributeValue]"

# -- attributes ------------------------------------------------------------------------------------

_SYSTEM: Final = "messaging.system"
_OPERATION_NAME: Final = "messaging.operation.name"
_OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION: Final = "messaging.destination.name"
_TEMPORARY: Final = "messaging.destination.temporary"
_GROUP: Final = "messaging.consumer.group.name"
_COUNT: Final = "messaging.batch.message_count"
_MESSAGE_ID: Final = "messaging.message.id"
_CONVERSATION: Final = "messaging.message.conversation_id"
_EVENT_TYPE: Final = "cloudevents.event_type"
ERROR_TYPE: Final = "error.type"
HANDLER: Final = "dimesh.handler"
TRACE: Final = "dimesh.trace_id"
"""The trace id of an event if it is none of W3C trace context, so that no span can have it."""
SOURCE: Final = "dimesh.source"

# -- metrics ---------------------------------------------------------------------------------------

SENT: Final = "messaging.client.sent.messages"
CONSUMED: Final = "messaging.client.consumed.messages"
CLIENT_DURATION: Final = "messaging.client.operation.duration"
PROCESS_DURATION: Final = "messaging.process.duration"
BOUNDARIES: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""The upper bounds of the buckets of both durations, in seconds."""
MESSAGES: Final = "{message}"
SECONDS: Final = "s"
DEAD_LETTERS: Final = "dimesh.dead_letters"
GIVEN_UP: Final = "dimesh.given_up"
CHANGES: Final = "dimesh.source.changes"
GAPS: Final = "dimesh.source.gaps"

_OWN: Final = "dimesh."
"""The beginning of the names of topics that dimesh makes for itself, such as one for the replies to each process."""


def span_name(operation: str, topic: str) -> str:
    """Return the name of a span. The names of temporary topics are without bound, so they are left out."""
    return operation if topic.startswith(_OWN) else f"{operation} {topic}"


def of_publishing(publishing: Publishing, operation_type: str) -> Labels:
    """Return the attributes of a span that sends (``send``) or stands for the making of one event (``create``)."""
    name = publishing.operation if operation_type == "send" else operation_type
    return {
        _SYSTEM: SYSTEM,
        _OPERATION_NAME: name,
        _OPERATION_TYPE: operation_type,
        **_destination(publishing.topic),
    }


def of_handling(handling: Handling) -> Labels:
    """Return the attributes of a span that handles."""
    labels: Labels = {
        _SYSTEM: SYSTEM,
        _OPERATION_NAME: "process",
        _OPERATION_TYPE: "process",
        **_destination(handling.topic),
        HANDLER: handling.handler,
    }
    if handling.group is not None:
        labels[_GROUP] = handling.group
    return labels


def _destination(topic: str) -> Labels:
    return {DESTINATION: topic, _TEMPORARY: True} if topic.startswith(_OWN) else {DESTINATION: topic}


def of_event(event: Event) -> Labels:
    """Return the attributes of one event."""
    metadata = event.metadata
    labels: Labels = {_MESSAGE_ID: metadata.event_id, _EVENT_TYPE: event.event_type.value}
    if metadata.correlation_id is not None:
        labels[_CONVERSATION] = metadata.correlation_id
    return labels


def of_batch(count: int) -> Labels:
    """Return the attributes of several events together."""
    return {_COUNT: count}


def sending_labels(topic: str, operation: str, error: str | None) -> Labels:
    """Return the attributes of the metrics of what was published."""
    labels: Labels = {_SYSTEM: SYSTEM, _OPERATION_NAME: operation, DESTINATION: topic}
    if error is not None:
        labels[ERROR_TYPE] = error
    return labels


def processing_labels(topic: str, group: str, error: str | None) -> Labels:
    """Return the attributes of the metrics of what was handled. An empty group is a lone subscription."""
    labels: Labels = {_SYSTEM: SYSTEM, _OPERATION_NAME: "process", DESTINATION: topic}
    if group:
        labels[_GROUP] = group
    if error is not None:
        labels[ERROR_TYPE] = error
    return labels


def error_type(error: BaseException) -> str:
    """Return what stands for an error: the name of its class, never its message, which has no bound."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
