"""The Pub/Sub API: one gRPC channel for an org, one stream for each topic.

A stream requests as many events as may be in flight, and more when half of them arrived and were published, so that a
slow consumer is not sent more than it can handle. A silent stream is opened again, since some streams hang without an
error. When a stream ends for a temporary reason, the runner opens it again from the stored position.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final

# Set before grpc is imported: that a server ends an old connection, as each of them does, is not worth a line on the terminal.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc
import grpc.aio

from dimesh.clock import Clock, time_limit
from dimesh.contact import report_reached
from dimesh.errors import (
    CDCError,
    CredentialsError,
    SourceObjectError,
    SourcePositionLostError,
    SourceUnavailableError,
)
from dimesh.sourcekit.http import root_certificates
from dimesh_salesforce import api
from dimesh_salesforce.credentials import Credentials, Session
from dimesh_salesforce.options import SalesforceOptions
from dimesh_salesforce.schemas import DecodingError

OUTSTANDING: Final = 100
"""The number of events that may be in flight: the server accepts no higher number."""
_DAY: Final = 86_400.0
_EXHAUSTED: Final = 900.0
"""The number of seconds between tries while the org's deliveries of 24 hours are used up."""
_PREFIX: Final = "sfdc.platform.eventbus.grpc."
_BACK_OFF: Final = 30.0
_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.max_receive_message_length", 128 * 1024 * 1024),
)
_NO_OBJECT: Final = (
    "topic.not.found",
    "topic.meta.permission",
    "topic.validation.empty",
    "subscription.topic.cannot.subscribe",
    "schema.meta.permission",
    "service.tenant.license",
)
_OVERLOAD: Final = (
    "service.protection.triggered",
    "service.protection.stream.limit.triggered",
    "concurrent.client.limit.exceeded",
    "subscription.fetch.overflow",
)


class Deliveries:
    """Counts the events that were delivered to us in the last 24 hours: not every user may ask Salesforce for its own count."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._hours: deque[list[float]] = deque()

    def add(self, count: int) -> None:
        """Add a number of events that just arrived."""
        hour = self._clock.time() // 3_600
        if not self._hours or self._hours[-1][0] != hour:
            self._hours.append([hour, 0])
        self._hours[-1][1] += count

    @property
    def of_a_day(self) -> int:
        """The number of events of the last 24 hours."""
        oldest = (self._clock.time() - _DAY) // 3_600
        while self._hours and self._hours[0][0] < oldest:
            self._hours.popleft()
        return int(sum(count for _, count in self._hours))


class Streaming:
    """The connection of one org to the Pub/Sub API."""

    def __init__(self, options: SalesforceOptions, clock: Clock, credentials: Credentials) -> None:
        self._options = options
        self._clock = clock
        self._credentials = credentials
        self._channel: Any = None
        self.deliveries = Deliveries(clock)
        self.reopened = 0
        """The number of streams that were opened again because they were silent."""

    async def close(self) -> None:
        """Close the channel; may be called twice."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(None)

    def _open(self) -> Any:
        if self._channel is None:
            if self._options.plaintext:
                self._channel = grpc.aio.insecure_channel(self._options.pubsub, _OPTIONS)
            else:
                tls = grpc.ssl_channel_credentials(root_certificates(self._options.ca_file))
                self._channel = grpc.aio.secure_channel(self._options.pubsub, tls, _OPTIONS)
        return self._channel

    @staticmethod
    def _metadata(session: Session) -> tuple[tuple[str, str], ...]:
        return (
            ("accesstoken", session.token.reveal()),
            ("instanceurl", str(session.instance)),
            ("tenantid", session.organization),
        )

    async def topic(self, name: str) -> Any:
        """Return the ``TopicInfo`` of a topic. Raises as :meth:`subscribe` does."""
        return await self._ask("GetTopic", api.TopicRequest(topic_name=name), api.TopicInfo, name)

    async def schema(self, id: str) -> str:
        """Return the text of a schema. Raises as :meth:`subscribe` does, and:

        Raises:
            DecodingError: no schema has that id. Events of it cannot be read, now or later.
        """
        try:
            found = await self._ask(
                "GetSchema", api.SchemaRequest(schema_id=id), api.SchemaInfo, f"schema {id}"
            )
        except CDCError as error:
            cause = error.__cause__
            if (
                isinstance(cause, grpc.aio.AioRpcError)
                and _code(cause.trailing_metadata()) == "schema.validation.failed"
            ):
                raise DecodingError(
                    f"an event has the schema {id}, which Salesforce does not have: {error}"
                ) from error
            raise
        return str(found.schema_json)

    async def _ask(self, method: str, request: Any, answer: Any, about: str) -> Any:
        refused: Session | None = None
        while True:
            session = await self._credentials.session()
            call = self._open().unary_unary(
                f"/{api.SERVICE}/{method}", type(request).SerializeToString, answer.FromString
            )
            try:
                return await call(request, metadata=self._metadata(session), timeout=self._options.timeout)
            except grpc.aio.AioRpcError as error:
                found = explained(error, about)
                if not isinstance(found, CredentialsError) or refused is not None:
                    raise found from error
                refused = session
                await self._credentials.renew(session)

    async def subscribe(
        self, topic: str, preset: int, replay_id: bytes = b"", ask: int = OUTSTANDING
    ) -> AsyncIterator[Any]:
        """Yield the answers of a subscription (``FetchResponse``) without end. The caller has published an answer when it asks
        for the next one.

        Args:
            topic: the topic, such as ``/data/AccountChangeEvent``.
            preset: where to begin.
            replay_id: the replay id after which to begin, for ``CUSTOM``.
            ask: the number of events that may be in flight.

        Raises:
            SourcePositionLostError: Salesforce does not know the replay id, or has forgotten it.
            SourceObjectError: the topic does not exist, or the user lacks a permission.
            CredentialsError: Salesforce refuses the token, and the next one as well.
            SourceUnavailableError: the stream ended for another reason.
        """
        refused: Session | None = None
        while True:
            session = await self._credentials.session()
            call = self._open().stream_stream(
                f"/{api.SERVICE}/Subscribe", api.FetchRequest.SerializeToString, api.FetchResponse.FromString
            )(metadata=self._metadata(session))
            try:
                first = api.FetchRequest(
                    topic_name=topic, replay_preset=preset, replay_id=replay_id, num_requested=ask
                )
                await self._write(call, first)
                while True:
                    response = await self._read(call)
                    if response is grpc.aio.EOF:
                        break
                    refused = None
                    report_reached()
                    self.deliveries.add(len(response.events))
                    yield response
                    last = response.events[-1].replay_id if response.events else response.latest_replay_id
                    preset, replay_id = (api.CUSTOM, last) if last else (preset, replay_id)
                    if response.pending_num_requested <= ask // 2:
                        more = ask - response.pending_num_requested
                        await self._write(call, api.FetchRequest(topic_name=topic, num_requested=more))
                # The server ended the stream: after a minute without a request, or for the reason in its status.
                if await call.code() is not grpc.StatusCode.OK:
                    raise _status(
                        await call.code(), await call.details(), await call.trailing_metadata(), topic
                    )
                if not replay_id:
                    raise SourceUnavailableError(f"the stream of {topic} ended at once")
            except TimeoutError:
                if not replay_id:
                    # Without a position, events that arrived meanwhile would be lost.
                    raise SourceUnavailableError(
                        f"the stream of {topic} was silent for {self._options.silence:g} s"
                    ) from None
                self.reopened += 1
            except grpc.aio.AioRpcError as error:
                found = explained(error, topic)
                if not isinstance(found, CredentialsError) or refused is not None:
                    raise found from error
                refused = session
                await self._credentials.renew(session)
            except CredentialsError:
                if refused is not None:
                    raise
                refused = session
                await self._credentials.renew(session)
            finally:
                call.cancel()

    async def _read(self, call: Any) -> Any:
        """Return the next answer. Raises TimeoutError if the stream is silent for too long."""
        async with time_limit(self._clock, self._options.silence):
            return await call.read()

    async def _write(self, call: Any, request: Any) -> None:
        try:
            async with time_limit(self._clock, self._options.timeout):
                await call.write(request)
        except (asyncio.InvalidStateError, grpc.aio.UsageError):
            pass  # the call is over: reading it raises the reason


def explained(error: Any, about: str) -> CDCError:
    """Return the error that a failed call means."""
    return _status(error.code(), error.details(), error.trailing_metadata(), about)


def _status(status: Any, details: str | None, trailers: Any, about: str) -> CDCError:
    code = _code(trailers)
    text = " ".join(re.sub(r"rpcId: \S+", "", details or "").split())[:300]
    reason = f"{code or status.name}: {text}" if text else (code or status.name)
    if code == "subscription.fetch.replayid.corrupted":
        return SourcePositionLostError(
            f"Salesforce does not know the position of {about}: it keeps events for 72 hours, and forgets all positions when an "
            f"org is moved ({reason})"
        )
    if code == "service.auth.error" or status is grpc.StatusCode.UNAUTHENTICATED:
        return CredentialsError(f"Salesforce refused the access token: {reason}")
    if code in _NO_OBJECT or status in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED):
        return SourceObjectError(
            f"{about} cannot be subscribed to ({reason}): select the object in Setup, Change Data Capture, and give the user the "
            "permission View All Records on it; names are case sensitive"
        )
    if code == "service.auth.headers.invalid":
        return CredentialsError(f"Salesforce refused instance_url or organization_id: {reason}")
    if code == "subscription.limit.exceeded":
        return SourceUnavailableError(
            f"the org's event deliveries of 24 hours are used up ({reason}): capture resumes when some are available; fewer "
            "subscribers or an add-on prevent this",
            retry_after=_EXHAUSTED,
        )
    if code in _OVERLOAD:
        return SourceUnavailableError(f"Salesforce is overloaded: {reason}", retry_after=_BACK_OFF)
    return SourceUnavailableError(f"the stream of {about} ended: {reason}")


def _code(trailers: Any) -> str:
    """Return Salesforce's own error code, such as ``service.auth.error``; empty if there is none."""
    found = [str(value).removeprefix(_PREFIX) for name, value in trailers or () if name == "error-code"]
    return found[-1] if found else ""
