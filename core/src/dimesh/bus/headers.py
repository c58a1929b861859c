"""The headers that only the engine writes. Users cannot: see :func:`dimesh.bus.door.check_user_headers`."""

from __future__ import annotations

from typing import Final

REPLY_TO: Final = "dimesh-reply-to"
REPLY: Final = "dimesh-reply-"
"""The beginning of the names of the headers of replies."""
REPLY_ERROR: Final = "dimesh-reply-error"
REPLY_FOR: Final = "dimesh-reply-for"
"""The topic that the request was sent to: one event may be sent to several."""

REDRIVES: Final = "dimesh-redrives"
REDRIVE_GROUP: Final = "dimesh-redrive-group"

REDELIVERIES: Final = "dimesh-redeliveries"
"""The number of times that the event came back to its group later, after all its attempts were used up."""
ATTEMPTS: Final = "dimesh-attempts"
"""The number of failed attempts before this redelivery."""
FIRST_FAILURE: Final = "dimesh-first-failure"
"""The time of the first of them, in epoch seconds."""

DLQ_PREFIX: Final = "dimesh-dlq-"
DLQ_REASON: Final = "dimesh-dlq-reason"
DLQ_ERROR_TYPE: Final = "dimesh-dlq-error-type"
DLQ_STACK: Final = "dimesh-dlq-stack-digest"
DLQ_ATTEMPTS: Final = "dimesh-dlq-attempts"
DLQ_TOPIC: Final = "dimesh-dlq-topic"
DLQ_PARTITION: Final = "dimesh-dlq-partition"
DLQ_OFFSET: Final = "dimesh-dlq-offset"
DLQ_GROUP: Final = "dimesh-dlq-group"
DLQ_HANDLER: Final = "dimesh-dlq-handler"
DLQ_FIRST: Final = "dimesh-dlq-first"
DLQ_LAST: Final = "dimesh-dlq-last"
DLQ_KEY: Final = "dimesh-dlq-key"
DLQ_RAW_HEADER: Final = "dimesh-dlq-raw-header"
DLQ_FORM: Final = "dimesh-dlq-form"
"""The form of a dead letter that is not whole, see :class:`dimesh.bus.deadletter.Form`."""
DLQ_CLOSES: Final = "dimesh-dlq-closes"
"""Of a mark in a dead-letter topic: the position of the entry that it closes, as ``partition/offset``."""


def number(value: str | bytes | None, digits: int = 19) -> int:
    """Return the whole number in a header; 0 if there is none, or more than ``digits``: headers come over a broker."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= digits:
        return int(value)
    return 0
