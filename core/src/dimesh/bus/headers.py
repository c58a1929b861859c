"""Names of the headers that the engine itself puts on events."""

from __future__ import annotations

from typing import Final

REPLY_TO: Final = "dimesh-reply-to"
REPLY_ERROR: Final = "dimesh-reply-error"

REDRIVES: Final = "dimesh-redrives"
REDRIVE_GROUP: Final = "dimesh-redrive-group"

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
