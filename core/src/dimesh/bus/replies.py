"""Answers requests: the result of a handler goes to the topic on which the requester listens."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from dimesh.bus import headers as h
from dimesh.bus.door import Operation
from dimesh.bus.outgoing import Outgoing
from dimesh.errors import DimeshError, EventError, describe, is_permanent
from dimesh.events.event import Event
from dimesh.events.metadata import EventMetadata
from dimesh.events.names import MAX_TYPE, check_topic, show
from dimesh.printable import printable_error

log = logging.getLogger("dimesh.bus")

REPLY_PREFIX: Final = "dimesh.replies."
"""The beginning of the names of reply topics. A reply goes nowhere else, whatever a request says."""
REMEMBERED: Final = 1_000
"""The largest number of answers that a subscription remembers."""
REMEMBERED_BYTES: Final = 8 * 1024 * 1024
"""The largest number of bytes of payload in these answers."""
MAX_REASON: Final = 1_000
"""The largest number of bytes of the reason in an error reply: Pub/Sub takes 1,024 in an attribute."""


class Answer(NamedTuple):
    """The answer to a request: a reply, or the reason why there is none."""

    reply: Event | None
    error: str | None


class Replies:
    """Publishes replies."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing

    async def reply(self, request: Event, result: Any, error: str | None = None) -> Answer:
        """Answer a request with a result, or with an error; return the answer. If a result cannot be sent, now or ever, the
        requester gets the reason instead. A reply that could be sent later is logged: the requester has to ask again.
        """
        made: Event | None = None
        reason = None if error is None else _bounded(error)
        try:
            made = reply_to(request, result)
            headers = (
                {h.REPLY_FOR: asked} if isinstance(asked := request.headers.get(h.REPLY_FOR), str) else {}
            )
            if reason is not None:
                headers[h.REPLY_ERROR] = reason
            await self._outgoing.publish(
                reply_topic(request),
                (made,),
                operation=Operation.REPLY,
                keys=(request.metadata.event_id,),
                headers=headers or None,
            )
        except Exception as failed:  # also of an interceptor, or of an object that the handler returned
            log.warning("request %s got no reply: %s", request.event_id, printable_error(failed))
            transient = isinstance(failed, DimeshError) and not is_permanent(failed)
            if not transient and reason is None and names_reply_topic(request):
                return await self.reply(request, None, describe(failed))
        return Answer(None if reason is not None else made, reason)


class Answers:
    """The last answers of one subscription, so that a request that comes again is answered again and not handled again.

    At most :data:`REMEMBERED` answers with :data:`REMEMBERED_BYTES` of payload are kept, in the memory of this process. A request
    whose answer is forgotten is handled again.
    """

    def __init__(self, replies: Replies) -> None:
        self._replies = replies
        self._kept: OrderedDict[str, Answer] = OrderedDict()
        self._bytes = 0

    async def give(self, identity: str, request: Event, result: Any) -> None:
        """Answer a request that was handled, and remember the answer."""
        answer = await self._replies.reply(request, result)
        self._forget(identity)
        self._kept[identity] = answer
        self._bytes += _size(answer)
        while len(self._kept) > REMEMBERED or self._bytes > REMEMBERED_BYTES:
            self._forget(next(iter(self._kept)))

    async def again(self, identity: str, request: Event) -> bool:
        """Answer a request that was handled before; return False if its answer is forgotten."""
        answer = self._kept.get(identity)
        if answer is None:
            return False
        await self._replies.reply(request, answer.reply, answer.error)
        return True

    def _forget(self, identity: str) -> None:
        answer = self._kept.pop(identity, None)
        if answer is not None:
            self._bytes -= _size(answer)


def _size(answer: Answer) -> int:
    return 0 if answer.reply is None else len(answer.reply.data)


def _bounded(reason: str) -> str:
    """Cut a reason to what every backend takes as a header."""
    return reason.encode("utf-8", "replace")[:MAX_REASON].decode("utf-8", "ignore")


def reply_topic(request: Event) -> str:
    """Return the topic on which the requester listens.

    Raises:
        EventError: it is not a reply topic. A header from outside must not make a consumer write to any topic.
    """
    topic = request.headers.get(h.REPLY_TO)
    if not names_reply_topic(request):
        raise EventError(f"the request names {show(topic)}, which is not a reply topic ({REPLY_PREFIX}…)")
    return check_topic(str(topic))


def names_reply_topic(request: Event) -> bool:
    """Whether the request names a topic that a reply may go to."""
    topic = request.headers.get(h.REPLY_TO)
    return isinstance(topic, str) and topic.startswith(REPLY_PREFIX)


def reply_to(request: Event, result: Any) -> Event:
    """Return the reply: the event that the handler returned, or one whose payload is what the handler returned."""
    asked = request.metadata
    if isinstance(result, Event):
        metadata = replace(result.metadata, correlation_id=asked.event_id, causation_id=asked.event_id)
        return result.replace(metadata=metadata)
    metadata = EventMetadata(
        trace_id=asked.trace_id,
        parent_span_id=asked.span_id,
        source_pillar=asked.target_pillar or "",
        source_agent=asked.target_agent or "",
        target_pillar=asked.source_pillar or None,
        target_agent=asked.source_agent or None,
        correlation_id=asked.event_id,
        causation_id=asked.event_id,
    )
    name = f"{request.event_type.value}.reply"
    return Event(name if len(name) <= MAX_TYPE else "dimesh.reply", metadata, result)
