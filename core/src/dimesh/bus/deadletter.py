"""Dead letters: the event as it was, with headers that state why, where and when it failed; or a reference to the event, if the
backend does not take more.
"""

from __future__ import annotations

import hashlib
import json
import traceback
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from dimesh.bus import headers as h
from dimesh.bus.door import without_engine_headers
from dimesh.errors import CodecError, describe
from dimesh.events.event import Event, restore
from dimesh.events.metadata import UTC, EventMetadata
from dimesh.events.topics import DEAD_LETTER_SUFFIX, dead_letter_topic
from dimesh.spi.bus import Delivery, Position

MAX_REASON: Final = 500
UNDECODABLE: Final = "system.undecodable"
"""The type of a dead letter that stands for bytes which are not an event."""
REDRIVEN: Final = "system.redriven"
"""The type of the mark, in the dead-letter topic, that an entry was sent back."""
DISCARDED: Final = "system.discarded"
"""The type of the mark that an entry was discarded."""

PUBLISHING: Final = "(publish)"
"""What is named as the handler of a dead letter that was refused when it was published."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason for which an event is dead-lettered."""

    error: BaseException
    attempts: int
    first: float
    """The wall-clock time of the first failure, in epoch seconds."""
    last: float
    topic: str
    group: str
    handler: str

    @property
    def reason(self) -> str:
        """The error in one line of bounded length, without the traceback."""
        return describe(self.error, MAX_REASON)


def stack_digest(error: BaseException) -> str:
    """Return 16 hex digits that are the same for failures of the same kind at the same place in the code. They are made of
    the error's type and the file, function and line of each frame, never of the message.
    """
    digest = hashlib.sha256(type(error).__qualname__.encode("utf-8", "replace"))
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        digest.update(f"{code.co_filename}:{code.co_name}:{line}\n".encode("utf-8", "replace"))
    return digest.hexdigest()[:16]


class Form(StrEnum):
    """The forms of a dead letter, from the whole event to the least that names it. A form is written only if the backend
    refuses all those before it, as a broker does with what is too large.
    """

    WHOLE = "whole"
    """The event as it was, and why it failed."""
    WITHOUT_HEADERS = "without-headers"
    """Without the headers of the event."""
    SHORT_REASON = "short-reason"
    """Moreover, with a reason and a handler's name of at most 60 characters."""
    REFERENCE = "reference"
    """Moreover, with a reference to the place of the event instead of the payload."""
    BARE_REFERENCE = "bare-reference"
    """Moreover, without the event's tags, and without the fields of its metadata that do not identify it."""


def dead_letter(delivery: Delivery, failure: Failure, form: Form = Form.WHOLE) -> Event:
    """Return the event to append to the dead-letter topic. In the form ``WHOLE``, payload bytes, metadata and headers are those
    of the original.
    """
    record = delivery.record
    headers: dict[str, str | bytes] = {}
    try:
        event = record.event
        headers.update((k, v) for k, v in event.headers.items() if not k.startswith(h.DLQ_PREFIX))
    except CodecError:
        # These bytes are not an event: both byte strings are kept as they are.
        event = restore(UNDECODABLE, EventMetadata(), record.payload, content_type="application/octet-stream")
        headers[h.DLQ_RAW_HEADER] = record.header
    reason, handler = failure.reason, failure.handler
    if form is not Form.WHOLE:
        headers = {name: headers[name] for name in _KEPT_HEADERS if name in headers}
        headers[h.DLQ_FORM] = form.value
        if form is not Form.WITHOUT_HEADERS:
            reason, handler = _short(reason), _short(handler)
    headers |= {
        h.DLQ_REASON: _clean(reason),
        h.DLQ_ERROR_TYPE: _clean(f"{type(failure.error).__module__}.{type(failure.error).__qualname__}"),
        h.DLQ_STACK: stack_digest(failure.error),
        h.DLQ_ATTEMPTS: str(failure.attempts),
        h.DLQ_TOPIC: failure.topic,
        h.DLQ_PARTITION: str(delivery.partition),
        h.DLQ_OFFSET: str(delivery.offset),
        h.DLQ_GROUP: failure.group,
        h.DLQ_HANDLER: _clean(handler),
        h.DLQ_FIRST: _iso(failure.first),
        h.DLQ_LAST: _iso(failure.last),
    }
    if form in REFERENCES:
        event = _reference(event, delivery, failure, form)
    if form is Form.BARE_REFERENCE:
        del headers[h.DLQ_ERROR_TYPE]
    else:
        headers[h.DLQ_KEY] = _clean(record.key)
    return event.replace(headers=headers)


def refused_at_publish(event: Event, topic: str, key: str, error: BaseException, now: float) -> Event:
    """Return the event to append to the dead-letter topic for one that was refused before it was in its topic. No group has
    failed, so a redrive sends it to all of them.

    Args:
        event: the event.
        topic: the topic that it was published to.
        key: its ordering key.
        error: why it was refused.
        now: the wall-clock time, in epoch seconds.
    """
    headers: dict[str, str | bytes] = {
        **event.headers,
        h.DLQ_REASON: _clean(describe(error, MAX_REASON)),
        h.DLQ_ERROR_TYPE: _clean(f"{type(error).__module__}.{type(error).__qualname__}"),
        h.DLQ_STACK: stack_digest(error),
        h.DLQ_ATTEMPTS: "0",
        h.DLQ_TOPIC: topic,
        h.DLQ_GROUP: "",
        h.DLQ_HANDLER: PUBLISHING,
        h.DLQ_FIRST: _iso(now),
        h.DLQ_LAST: _iso(now),
        h.DLQ_KEY: _clean(key),
    }
    return event.replace(headers=headers)


REFERENCES: Final = frozenset({Form.REFERENCE, Form.BARE_REFERENCE})
"""The forms whose payload is a reference."""
REFERENCE_TYPE: Final = "application/vnd.dimesh.reference+json"
"""The content type of a reference: a JSON object with the topic, partition and offset at which the event stands, and the size
and content type of its payload."""
_KEPT_HEADERS: Final = (h.REPLY_TO, h.REDRIVES)


def _reference(event: Event, delivery: Delivery, failure: Failure, form: Form) -> Event:
    place = {
        "topic": failure.topic,
        "partition": delivery.partition,
        "offset": delivery.offset,
        "size": len(event.data),
        "content_type": event.content_type,
    }
    metadata = event.metadata
    if form is Form.BARE_REFERENCE:
        metadata = EventMetadata(
            event_id=metadata.event_id,
            trace_id=metadata.trace_id,
            timestamp=metadata.timestamp,
            source_pillar=metadata.source_pillar,
            source_agent=metadata.source_agent,
        )
    data = json.dumps(place).encode()
    return restore(event._event_type, metadata, data, event.schema_version, REFERENCE_TYPE)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An entry of a dead-letter topic, as listed."""

    position: Position
    event: Event
    topic: str
    """The topic that the event failed on, see :func:`origin_topic`."""
    redriven: bool = False
    discarded: bool = False

    def _text(self, name: str) -> str:
        value = self.event.headers.get(name, "")
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    @property
    def event_id(self) -> str:
        """The id of the event that failed."""
        return self.event.event_id

    @property
    def group(self) -> str:
        """The group whose handler failed; empty for a lone subscription."""
        return self._text(h.DLQ_GROUP)

    @property
    def key(self) -> str:
        """The ordering key of the event."""
        return self._text(h.DLQ_KEY)

    @property
    def reason(self) -> str:
        """The type and message of the error."""
        return (
            self._text(h.DLQ_REASON)
            or "given up by the broker: delivered too often without an acknowledgement"
        )

    @property
    def handler(self) -> str:
        """The name of the handler that failed."""
        return self._text(h.DLQ_HANDLER)

    @property
    def error_type(self) -> str:
        """The class of the error, with its module; empty in a dead letter of a broker, or in a bare reference."""
        return self._text(h.DLQ_ERROR_TYPE)

    @property
    def stack_digest(self) -> str:
        """A digest that is equal for failures of the same kind."""
        return self._text(h.DLQ_STACK)

    @property
    def form(self) -> Form:
        """The form in which the event was kept."""
        try:
            return Form(self._text(h.DLQ_FORM) or Form.WHOLE)
        except ValueError:  # of a newer dimesh
            return Form.BARE_REFERENCE

    @property
    def origin(self) -> Position:
        """The position in :attr:`topic` at which the event failed; in a queue, it only names the delivery."""
        return Position(h.number(self._text(h.DLQ_PARTITION)), h.number(self._text(h.DLQ_OFFSET)))

    @property
    def attempts(self) -> int:
        """The number of times that the event was tried."""
        return h.number(self._text(h.DLQ_ATTEMPTS))

    @property
    def redrives(self) -> int:
        """The number of times that the event was sent back before."""
        return h.number(self._text(h.REDRIVES))

    @property
    def first(self) -> str:
        """The time of the first failure, in ISO 8601."""
        return self._text(h.DLQ_FIRST)

    @property
    def last(self) -> str:
        """The time of the last failure, in ISO 8601."""
        return self._text(h.DLQ_LAST)

    @property
    def open(self) -> bool:
        """Whether the entry was neither sent back nor discarded."""
        return not (self.redriven or self.discarded)


def origin_topic(name: str, event: Event) -> str:
    """Return the topic that an event failed on. A header cannot change it: it is the name of the dead-letter topic without
    ``.dlq``, and a name from a header counts only if events of that topic are dead-lettered here.
    """
    stated = event.headers.get(h.DLQ_TOPIC)
    if isinstance(stated, str) and stated != name and dead_letter_topic(stated) == name:
        return stated
    return name.removesuffix(DEAD_LETTER_SUFFIX)


def revived(entry: DeadLetter, original: Event) -> Event:
    """Return the event to send back: without the headers of the engine, with its redrives counted, and for the group that
    failed. A request is not answered again: its requester has got the failure.

    Args:
        entry: the dead letter.
        original: the event that failed: that of the entry, or where the entry is not whole, the one it refers to.
    """
    event = without_engine_headers(original)
    headers: dict[str, str | bytes] = {**event.headers, h.REDRIVES: str(entry.redrives + 1)}
    if entry.group:
        headers[h.REDRIVE_GROUP] = entry.group
    return event.replace(headers=headers)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "…"
