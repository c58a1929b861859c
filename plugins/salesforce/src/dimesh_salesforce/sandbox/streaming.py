"""The gRPC side of the sandbox: the Pub/Sub API.

Messages and the rules of a subscription are those of the protocol; the error codes in the trailers and the time after which
a stream without requests is closed are those of the documentation; the texts of the errors are recorded where the tests
compare them.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
import grpc.aio

from dimesh.errors import ListenError
from dimesh_salesforce import api
from dimesh_salesforce.sandbox.faults import StreamFaults
from dimesh_salesforce.sandbox.org import Org

_PREFIX: Final = "sfdc.platform.eventbus.grpc."
_MOST: Final = 100
"""The number of requested events at which a stream's requests are clamped (protocol)."""
Code: Final = grpc.StatusCode


class PubSub:
    """The Pub/Sub API of an org.

    Args:
        org: the org whose events are delivered.
        allowed: returns whether an access token is accepted.
        keep_alive: seconds between the empty responses of a stream without events.
    """

    def __init__(self, org: Org, allowed: Callable[[str], bool], keep_alive: float) -> None:
        self.org = org
        self.faults = StreamFaults()
        self.keep_alive = keep_alive
        self.delivered = 0
        """The number of events that were delivered, over all subscribers."""
        self.streams = 0
        """The number of open subscriptions."""
        self.opened = 0
        """The number of subscriptions so far."""
        self._allowed = allowed
        self._server: Any = None
        self._changed = asyncio.Event()
        self._kicked = asyncio.Event()

    async def start(self, port: int) -> int:
        """Listen on loopback, and return the port.

        Raises:
            ListenError: the port is in use.
        """
        # Without the option two servers share a port, and each gets some of the calls.
        server = self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        unary = grpc.unary_unary_rpc_method_handler
        handlers = {
            "Subscribe": grpc.stream_stream_rpc_method_handler(
                self._subscribe, api.FetchRequest.FromString, api.FetchResponse.SerializeToString
            ),
            "GetTopic": unary(self._topic, api.TopicRequest.FromString, api.TopicInfo.SerializeToString),
            "GetSchema": unary(self._schema, api.SchemaRequest.FromString, api.SchemaInfo.SerializeToString),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(api.SERVICE, handlers),))
        try:
            bound: int = server.add_insecure_port(f"127.0.0.1:{port}")
        except RuntimeError as error:
            raise ListenError(
                f"cannot listen at 127.0.0.1:{port}. Choose another port, or 0 for a free one"
            ) from error
        await server.start()
        self.org.listeners.append(self.wake)
        return bound

    async def stop(self) -> None:
        """Stop listening, and end every stream."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def wake(self) -> None:
        """Let every stream look for new events and changed switches."""
        self._changed.set()
        self._changed = asyncio.Event()

    def kick(self) -> None:
        """Break every stream, as a network does (documentation: ``RST_STREAM`` is to be retried)."""
        self._kicked.set()
        self._kicked = asyncio.Event()
        self.wake()

    # -- calls -------------------------------------------------------------------------------------

    async def _admit(self, context: Any) -> None:
        given = dict(context.invocation_metadata())
        if self.faults.unavailable > 0:
            self.faults.unavailable -= 1
            await self._end(context, Code.UNAVAILABLE, "service.unavailable", "The service is unavailable.")
        if self.faults.code is not None:
            code = self.faults.code
            status = Code.RESOURCE_EXHAUSTED if "limit" in code else Code.UNAVAILABLE
            await self._end(context, status, code, "refused")
        if given.get("tenantid") != self.org.id or not given.get("instanceurl"):
            text = "The tenantid or instanceurl header is missing or wrong."
            await self._end(context, Code.UNAUTHENTICATED, "service.auth.headers.invalid", text)
        await self._still(context)

    async def _still(self, context: Any) -> None:
        if not self._allowed(dict(context.invocation_metadata()).get("accesstoken", "")):
            text = "An authentication exception occurred."
            await self._end(context, Code.UNAUTHENTICATED, "service.auth.error", text)

    @staticmethod
    async def _end(context: Any, status: Any, code: str, text: str) -> None:
        rpc = str(uuid.uuid4())
        trailers = (("error-code", _PREFIX + code), ("rpc-id", rpc))
        await context.abort(status, f"{text} rpcId: {rpc}", trailers)

    async def _objects(self, context: Any, topic: str) -> set[str]:
        if not topic:
            await self._end(
                context, Code.INVALID_ARGUMENT, "topic.validation.empty", "The topic name can't be empty."
            )
        try:
            objects = self.org.objects(topic)
        except (KeyError, StopIteration):
            text = f"The topic {topic} can't be found."
            await self._end(context, Code.NOT_FOUND, "topic.not.found", text)
            raise AssertionError from None
        if len(objects) == 1 and objects & self.org.forbidden:
            text = f"You don't have permission to access the topic {topic}."
            await self._end(context, Code.PERMISSION_DENIED, "topic.meta.permission", text)
        return objects

    async def _topic(self, request: Any, context: Any) -> Any:
        await self._admit(context)
        objects = await self._objects(context, request.topic_name)
        # A topic of several objects has no schema of its own (pozil/pub-sub-api-node-client #34).
        several = request.topic_name == "/data/ChangeEvents" or request.topic_name in self.org.channels
        return api.TopicInfo(
            topic_name=request.topic_name,
            tenant_guid=f"core/sandbox/{self.org.id}",
            can_publish=False,
            can_subscribe=several or not objects & self.org.disabled,
            schema_id="" if several else self.org.schema_of(min(objects)),
            rpc_id=str(uuid.uuid4()),
        )

    async def _schema(self, request: Any, context: Any) -> Any:
        await self._admit(context)
        text = self.org.schemas.get(request.schema_id)
        if text is None:
            why = "The schema ID can't be blank." if not request.schema_id else "The schema can't be found."
            text = f"Schema validation failed. {why}"
            await self._end(context, Code.INVALID_ARGUMENT, "schema.validation.failed", text)
        return api.SchemaInfo(schema_json=text, schema_id=request.schema_id, rpc_id=str(uuid.uuid4()))

    async def _subscribe(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        # Not before the first request: grpc.aio reports a write to a call that was refused meanwhile as INTERNAL, without the
        # reason. The source then tries again.
        first = await anext(requests)
        await self._admit(context)
        topic = first.topic_name
        await self._objects(context, topic)
        await self._check(context, first)
        at = await self._begin(context, first)
        pending = [min(first.num_requested, _MOST)]
        wrong: list[tuple[str, str]] = []
        reader = asyncio.create_task(self._requests(requests, topic, pending, wrong))
        self.streams += 1
        self.opened += 1
        kicked = self._kicked
        try:
            quiet_since = asyncio.get_running_loop().time()
            while True:
                changed = self._changed
                await self._still(context)
                if wrong:
                    await self._end(context, Code.INVALID_ARGUMENT, *wrong[0])
                if kicked.is_set():
                    await context.abort(
                        Code.UNAVAILABLE, "RST_STREAM closed stream. HTTP/2 error code: NO_ERROR"
                    )
                now = asyncio.get_running_loop().time()
                if self.faults.silent:
                    await self._wait(changed, 3_600)
                    continue
                events = self.org.after(at, topic, min(pending[0], self.faults.batch)) if pending[0] else []
                if events:
                    if self.org.allocation is not None:
                        if self.org.allocation < len(events):
                            text = "You have exceeded the event delivery limit for your org."
                            await self._end(
                                context, Code.RESOURCE_EXHAUSTED, "subscription.limit.exceeded", text
                            )
                        self.org.allocation -= len(events)
                    pending[0] -= len(events)
                    self.delivered += len(events)
                    at, quiet_since = events[-1].number, now
                    yield api.FetchResponse(
                        events=[
                            api.ConsumerEvent(
                                event=api.ProducerEvent(
                                    id=str(uuid.UUID(bytes=t.replay_id[:8] * 2)),
                                    schema_id=t.schema_id,
                                    payload=t.payload,
                                ),
                                replay_id=t.replay_id,
                            )
                            for t in events
                        ],
                        latest_replay_id=events[-1].replay_id,
                        rpc_id="rpc",
                        pending_num_requested=pending[0],
                    )
                    continue
                patience = self.keep_alive if pending[0] else self.faults.idle_close
                if now - quiet_since >= patience:
                    if not pending[0]:
                        return
                    quiet_since = now
                    mark = self.org.mark(max(at, self.org.latest()))
                    yield api.FetchResponse(
                        latest_replay_id=mark, rpc_id="rpc", pending_num_requested=pending[0]
                    )
                    continue
                await self._wait(changed, quiet_since + patience - now)
        finally:
            self.streams -= 1
            reader.cancel()

    async def _check(self, context: Any, request: Any) -> None:
        if request.num_requested <= 0:
            code = "subscription.fetch.requested.events.invalid"
            await self._end(
                context, Code.INVALID_ARGUMENT, code, "The requested number of events must be above 0."
            )
        if request.auth_refresh:
            await self._end(context, Code.INVALID_ARGUMENT, "service.auth.refresh.invalid", "Reserved.")

    async def _begin(self, context: Any, first: Any) -> int:
        if first.replay_preset == api.EARLIEST:
            return self.org.earliest()
        if first.replay_preset == api.LATEST:
            return self.org.latest()
        if not first.replay_id:
            code = "subscription.fetch.replayid.validation.failed"
            await self._end(context, Code.INVALID_ARGUMENT, code, "The replay ID can't be empty.")
        at = None if self.faults.corrupted else self.org.place(first.replay_id)
        if at is None:
            code = "subscription.fetch.replayid.corrupted"
            await self._end(context, Code.INVALID_ARGUMENT, code, "The replay ID validation failed.")
        assert at is not None
        return max(at - self.faults.again, 0)

    async def _requests(
        self, requests: AsyncIterator[Any], topic: str, pending: list[int], wrong: list[tuple[str, str]]
    ) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            async for request in requests:
                if request.topic_name not in ("", topic):
                    wrong.append(("subscription.fetch.topic.mismatch", "The topic can't change."))
                elif request.num_requested <= 0:
                    code = "subscription.fetch.requested.events.invalid"
                    wrong.append((code, "The requested number of events must be above 0."))
                elif request.replay_id:
                    wrong.append(("subscription.fetch.replay.repeated", "The replay ID was given before."))
                else:
                    pending[0] = min(pending[0] + request.num_requested, _MOST)
                self.wake()

    @staticmethod
    async def _wait(changed: asyncio.Event, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0.001)):
                await changed.wait()
