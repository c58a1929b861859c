"""Dead letters: the event as it was, with headers that say why, where and when it failed."""

from __future__ import annotations

import hashlib
import traceback
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from dimesh.bus import headers as h
from dimesh.errors import CodecError
from dimesh.events.event import Event, restore
from dimesh.events.metadata import UTC, EventMetadata
from dimesh.spi.bus import Delivery, Position

MAX_REASON: Final = 500
UNDECODABLE: Final = "system.undecodable"
"""Type of the dead letter that stands for bytes which are no event."""
REDRIVEN: Final = "system.redriven"
"""Type of the marker, in the dead-letter topic, that an entry was sent back."""
DISCARDED: Final = "system.discarded"
"""Type of the marker that an entry was given up for good."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an event is dead-lettered."""

    error: BaseException
    attempts: int
    first: float
    """Wall clock of the first failure, epoch seconds."""
    last: float
    topic: str
    group: str
    handler: str

    @property
    def reason(self) -> str:
        """One line; cut, and without the traceback."""
        text = " ".join(f"{type(self.error).__name__}: {self.error}".split())
        return text if len(text) <= MAX_REASON else text[:MAX_REASON] + "…"


def stack_digest(error: BaseException) -> str:
    """16 hex digits that are the same for the same kind of failure at the same place in the code: made of the
    error's type and the file, function and line of each frame, never of the message.
    """
    digest = hashlib.sha256(type(error).__qualname__.encode())
    for frame in traceback.extract_tb(error.__traceback__):
        digest.update(f"{frame.filename}:{frame.name}:{frame.lineno}\n".encode("utf-8", "replace"))
    return digest.hexdigest()[:16]


def dead_letter(delivery: Delivery, failure: Failure) -> Event:
    """The event to append to the dead-letter topic. Payload bytes, metadata and headers are the original's."""
    record = delivery.record
    headers: dict[str, str | bytes] = {}
    try:
        event = record.event
        headers.update((k, v) for k, v in event.headers.items() if not k.startswith(h.DLQ_PREFIX))
    except CodecError:
        # Not an event at all: both byte strings are kept as they are.
        event = restore(UNDECODABLE, EventMetadata(), record.payload, content_type="application/octet-stream")
        headers[h.DLQ_RAW_HEADER] = record.header
    headers |= {
        h.DLQ_REASON: _clean(failure.reason),
        h.DLQ_ERROR_TYPE: f"{type(failure.error).__module__}.{type(failure.error).__qualname__}",
        h.DLQ_STACK: stack_digest(failure.error),
        h.DLQ_ATTEMPTS: str(failure.attempts),
        h.DLQ_TOPIC: failure.topic,
        h.DLQ_PARTITION: str(delivery.partition),
        h.DLQ_OFFSET: str(delivery.offset),
        h.DLQ_GROUP: failure.group,
        h.DLQ_HANDLER: _clean(failure.handler),
        h.DLQ_FIRST: _iso(failure.first),
        h.DLQ_LAST: _iso(failure.last),
        h.DLQ_KEY: _clean(record.key),
    }
    return event.replace(headers=headers)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An entry of a dead-letter topic, as listed."""

    position: Position
    event: Event
    redriven: bool = False
    discarded: bool = False
    origin: str = ""
    """The topic by the name of the dead-letter topic: what a broker gave up by itself does not say more."""

    def _text(self, name: str) -> str:
        value = self.event.headers.get(name, "")
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    @property
    def event_id(self) -> str:
        """Of the event that failed."""
        return self.event.event_id

    @property
    def topic(self) -> str:
        """Where it came from."""
        return self._text(h.DLQ_TOPIC) or self.origin

    @property
    def group(self) -> str:
        """Whose handler failed; empty for a lone subscription."""
        return self._text(h.DLQ_GROUP)

    @property
    def key(self) -> str:
        """The ordering key it had."""
        return self._text(h.DLQ_KEY)

    @property
    def reason(self) -> str:
        """Error type and message."""
        return (
            self._text(h.DLQ_REASON)
            or "given up by the broker: delivered too often without an acknowledgement"
        )

    @property
    def handler(self) -> str:
        """Name of the handler that failed."""
        return self._text(h.DLQ_HANDLER)

    @property
    def stack_digest(self) -> str:
        """Equal for failures of the same kind."""
        return self._text(h.DLQ_STACK)

    @property
    def attempts(self) -> int:
        """How often it was tried."""
        return _number(self._text(h.DLQ_ATTEMPTS))

    @property
    def redrives(self) -> int:
        """How often it was sent back before."""
        return _number(self._text(h.REDRIVES))

    @property
    def first(self) -> str:
        """Time of the first failure, ISO 8601."""
        return self._text(h.DLQ_FIRST)

    @property
    def last(self) -> str:
        """Time of the last failure, ISO 8601."""
        return self._text(h.DLQ_LAST)

    @property
    def open(self) -> bool:
        """Neither sent back nor given up."""
        return not (self.redriven or self.discarded)


def revived(entry: DeadLetter) -> Event:
    """The event to send back: without the dead-letter headers, counted once more, for the group that failed."""
    headers = {k: v for k, v in entry.event.headers.items() if not k.startswith(h.DLQ_PREFIX)}
    headers[h.REDRIVES] = str(entry.redrives + 1)
    if entry.group:
        headers[h.REDRIVE_GROUP] = entry.group
    return entry.event.replace(headers=headers)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
