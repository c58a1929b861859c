"""Causation: the metadata of an event that another event caused."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from dimesh.events.current import Cause
from dimesh.events.ids import new_span_id
from dimesh.events.metadata import EventMetadata


def child(cause: EventMetadata, **fields: Any) -> EventMetadata:
    """Return metadata for an event that ``cause`` caused.

    The trace and the conversation (``correlation_id``) are those of the cause, the cause's span is the parent span,
    and ``causation_id`` is the cause's event id. Event id, span and time are new. Sender, receiver, priority and tags
    are not inherited.

    Args:
        cause: the metadata of the event that caused this one.
        fields: further fields of the metadata; they override the inherited ones.

    Raises:
        EventError: a field is not valid.
    """
    inherited: dict[str, Any] = {
        "trace_id": cause.trace_id,
        "span_id": new_span_id(),
        "parent_span_id": cause.span_id,
        "causation_id": cause.event_id,
        "correlation_id": cause.correlation_id,
    }
    return EventMetadata(**(inherited | fields))


def inherit(metadata: EventMetadata, cause: Cause) -> EventMetadata:
    """Return the metadata of an event that is created while ``cause`` is being handled, with what it leaves out: its causation,
    its conversation, and in the same trace its parent span. Whatever is given stays. (A trace id that is left out is the one of
    the cause from the start, see :class:`EventMetadata`.)
    """
    if metadata.event_id == cause.event_id:
        return metadata  # the event itself once more, not an effect of it
    changes: dict[str, str | None] = {}
    if metadata.causation_id is None:
        changes["causation_id"] = cause.event_id
    if metadata.correlation_id is None and cause.correlation_id is not None:
        changes["correlation_id"] = cause.correlation_id
    if metadata.parent_span_id is None and metadata.trace_id == cause.trace_id:
        changes["parent_span_id"] = cause.span_id
        if metadata.span_id is None:
            changes["span_id"] = new_span_id()
    return replace(metadata, **changes) if changes else metadata
