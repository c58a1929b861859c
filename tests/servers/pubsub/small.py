"""A small server of our own for the protocol of Cloud Pub/Sub, installable by pip alone.

Its evidence is weaker than that of Google's fake, because the authors of the client also wrote this server. Beyond the fake,
it has exactly-once delivery with ack ids that expire, snapshots, dead letters with the attributes of the service, flow control,
messages of 10 MB, TLS with tokens, and errors on demand. Run as ``python -m servers.pubsub.small '{"port": 1234}'``.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import any_pb2, empty_pb2
from google.pubsub_v1 import types
from google.rpc import error_details_pb2, status_pb2

from servers.processes import ServerProcess, folder_kept_on_failure, free_ports
from servers.pubsub.fake import PubSub

Code = grpc.StatusCode
Message = types.PubsubMessage.pb()
LAPSED = "PERMANENT_FAILURE_INVALID_ACK_ID"


class Refused(Exception):
    """An error response."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class Held:
    """A message in a subscription's backlog."""

    def __init__(self, message: Any) -> None:
        self.message = message
        self.ack_id: str | None = None
        self.until = 0.0
        """The monotonic time when the lease expires or, without a lease, when the delivery delay ends."""
        self.deliveries = 0
        self.stream: Stream | None = None
        self.lapsed_on: Stream | None = None


class Stream:
    """A streaming pull."""

    def __init__(self, most: int, most_bytes: int, lease: float) -> None:
        self.most = most or 1 << 30
        self.most_bytes = most_bytes or 1 << 40
        self.lease = lease
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.out = 0
        self.out_bytes = 0


class Subscription:
    """A subscription with its backlog, in the order of publishing."""

    def __init__(self, server: Server, proto: Any) -> None:
        self.server = server
        self.proto = proto
        self.backlog: dict[str, Held] = {}
        self.acked: set[str] = set()
        self.streams: list[Stream] = []
        self.numbers = itertools.count(1)
        self.passes = passing(proto.filter)

    def add(self, message: Any) -> None:
        """Add a new message."""
        if self.passes(dict(message.attributes)):
            self.backlog[message.message_id] = Held(message)

    def deliver(self) -> None:
        """Deliver available messages to streams with capacity; messages of one key go to one stream, in order."""
        now = time.monotonic()
        blocked: set[str] = set()
        owners: dict[str, Stream] = {}
        ordered = self.proto.enable_message_ordering
        for held in self.backlog.values():
            key = held.message.ordering_key if ordered else ""
            if held.ack_id is not None and now > held.until:
                held.lapsed_on = held.stream
                self.free(held)
            if key and held.ack_id is not None and held.stream is not None:
                owners[key] = held.stream
        buried: list[Held] = []
        for held in self.backlog.values():
            key = held.message.ordering_key if ordered else ""
            if held.ack_id is not None or key in blocked:
                continue
            if now < held.until:
                if key:
                    blocked.add(key)
                continue
            policy = self.proto.dead_letter_policy
            if policy.dead_letter_topic and held.deliveries >= policy.max_delivery_attempts:
                buried.append(held)
                continue
            size = held.message.ByteSize()
            candidates = [owners[key]] if key in owners else self.streams
            stream = min(
                (
                    s
                    for s in candidates
                    if (s.out < s.most and s.out_bytes + size <= s.most_bytes) or not s.out
                ),
                key=lambda s: (s is held.lapsed_on, s.out),
                default=None,
            )
            if stream is None:
                if not key:
                    break
                blocked.add(key)
                continue
            if key:
                owners[key] = stream
            self.lease(held, stream)
        for held in buried:
            self.dead_letter(held)

    def lease(self, held: Held, stream: Stream) -> None:
        """Lease a message to a stream."""
        held.deliveries += 1
        held.ack_id = f"{held.message.message_id}:{next(self.numbers)}"
        held.until = time.monotonic() + stream.lease
        held.stream = stream
        stream.out += 1
        stream.out_bytes += held.message.ByteSize()
        attempt = held.deliveries if self.proto.dead_letter_policy.dead_letter_topic else 0
        received = types.ReceivedMessage.pb()(
            ack_id=held.ack_id, message=held.message, delivery_attempt=attempt
        )
        stream.queue.put_nowait(received)

    def free(self, held: Held, delay: float = 0.0) -> None:
        """Make a message available to any stream again, together with the later messages of its key."""
        key = held.message.ordering_key if self.proto.enable_message_ordering else ""
        later = False
        for other in self.backlog.values() if key else (held,):
            later = later or other is held
            if later and (other is held or other.message.ordering_key == key):
                self._end_lease(other)
                other.until = time.monotonic() + delay if other is held and delay else 0.0

    @staticmethod
    def _end_lease(held: Held) -> None:
        if held.stream is not None:
            held.stream.out -= 1
            held.stream.out_bytes -= held.message.ByteSize()
        held.stream = None
        held.ack_id = None

    def dead_letter(self, held: Held) -> None:
        """Move a message to the dead-letter topic."""
        policy = self.proto.dead_letter_policy
        del self.backlog[held.message.message_id]
        copy = Message()
        copy.CopyFrom(held.message)
        project, name = self.proto.name.split("/")[1::2]
        copy.attributes["CloudPubSubDeadLetterSourceDeliveryCount"] = str(held.deliveries)
        copy.attributes["CloudPubSubDeadLetterSourceSubscription"] = name
        copy.attributes["CloudPubSubDeadLetterSourceSubscriptionProject"] = project
        self.server.publish(policy.dead_letter_topic, [copy])

    def modify(self, ack_ids: list[str], seconds: int | None) -> dict[str, str]:
        """Acknowledge (None), release (0) or extend leases; return the ack ids that were rejected."""
        refused: dict[str, str] = {}
        for ack_id in ack_ids:
            id = ack_id.partition(":")[0]
            held = self.backlog.get(id)
            if held is not None and held.ack_id is not None and time.monotonic() > held.until:
                self.free(held)
            if held is None or held.ack_id != ack_id:
                if self.proto.enable_exactly_once_delivery:
                    refused[ack_id] = LAPSED
                    continue
                if held is None:
                    continue
            if seconds is None:
                self._end_lease(held)
                del self.backlog[id]
                self.acked.add(id)
            elif seconds == 0:
                self.free(held)
            else:
                held.until = time.monotonic() + seconds
        return refused


class Server:
    """The server, with all its state in memory."""

    def __init__(self, token: str | None, frees: bool) -> None:
        self.token = token
        self.frees = frees
        """Whether leases end with the stream; in the service they expire."""
        self.topics: dict[str, Any] = {}
        self.log: dict[str, list[Any]] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.snapshots: dict[str, tuple[str, set[str]]] = {}
        self.ids = itertools.count(10_000)
        self.failures: dict[str, list[tuple[grpc.StatusCode, str]]] = {}
        self.invalid: list[bytes] = []
        """What no message may contain, as if each topic had a schema: a request with one invalid message is refused as a whole
        (https://cloud.google.com/pubsub/docs/schemas)."""

    # -- calls -------------------------------------------------------------------------------------

    def publish(self, topic: str, messages: list[Any]) -> list[str]:
        """Append messages to a topic and to its subscriptions."""
        now = time.time()
        for message in messages:
            message.message_id = str(next(self.ids))
            message.publish_time.FromNanoseconds(int(now * 1e9))
            self.log[topic].append(message)
            for subscription in self.subscriptions.values():
                if subscription.proto.topic == topic:
                    subscription.add(message)
        return [message.message_id for message in messages]

    def _topic(self, name: str) -> Any:
        if name not in self.topics:
            raise Refused(Code.NOT_FOUND, f"Resource not found (resource={name.rpartition('/')[2]}).")
        return self.topics[name]

    def find(self, name: str) -> Subscription:
        """Return a subscription."""
        if name not in self.subscriptions:
            raise Refused(Code.NOT_FOUND, f"Resource not found (resource={name.rpartition('/')[2]}).")
        return self.subscriptions[name]

    def call_Publish(self, request: Any) -> Any:
        self._topic(request.topic)
        if len({m.ordering_key for m in request.messages}) > 1:
            raise Refused(
                Code.INVALID_ARGUMENT,
                "In a single publish request, all messages must have the same ordering key",
            )
        for message in request.messages:
            if len(message.attributes) > 100 or any(
                len(k.encode()) > 256 or len(v.encode()) > 1_024 for k, v in message.attributes.items()
            ):
                raise Refused(Code.INVALID_ARGUMENT, "The attributes are too many or too long")
            if any(invalid in message.data for invalid in self.invalid):
                raise Refused(
                    Code.INVALID_ARGUMENT,
                    "Invalid data in message: Message failed schema validation",
                )
            if message.ByteSize() > 10_000_000 or len(message.ordering_key.encode()) > 1_024:
                raise Refused(Code.INVALID_ARGUMENT, "The value for message_size is too large")
        if len(request.messages) > 1_000:
            raise Refused(Code.INVALID_ARGUMENT, "The value for message_count is too large")
        return types.PublishResponse.pb()(message_ids=self.publish(request.topic, list(request.messages)))

    def call_CreateTopic(self, request: Any) -> Any:
        if request.name in self.topics:
            raise Refused(Code.ALREADY_EXISTS, "Resource already exists in the project")
        if not re.fullmatch(r"projects/[^/]+/topics/(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}", request.name):
            raise Refused(Code.INVALID_ARGUMENT, f"Invalid resource name given (name={request.name})")
        self.topics[request.name] = request
        self.log[request.name] = []
        return request

    def call_UpdateTopic(self, request: Any) -> Any:
        found = self._topic(request.topic.name)
        for path in request.update_mask.paths:
            getattr(found, path).CopyFrom(getattr(request.topic, path))
        return found

    def call_GetTopic(self, request: Any) -> Any:
        return self._topic(request.topic)

    def call_ListTopics(self, request: Any) -> Any:
        names = [n for n in sorted(self.topics) if n.startswith(f"{request.project}/")]
        return types.ListTopicsResponse.pb()(topics=[self.topics[name] for name in names])

    def call_ListTopicSubscriptions(self, request: Any) -> Any:
        self._topic(request.topic)
        found = [n for n, s in sorted(self.subscriptions.items()) if s.proto.topic == request.topic]
        return types.ListTopicSubscriptionsResponse.pb()(subscriptions=found)

    def call_DeleteTopic(self, request: Any) -> Any:
        self._topic(request.topic)
        del self.topics[request.topic], self.log[request.topic]
        return empty_pb2.Empty()

    def call_CreateSubscription(self, request: Any) -> Any:
        if request.name in self.subscriptions:
            raise Refused(Code.ALREADY_EXISTS, "Resource already exists in the project")
        if not re.fullmatch(
            r"projects/[^/]+/subscriptions/(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}", request.name
        ):
            raise Refused(Code.INVALID_ARGUMENT, f"Invalid resource name given (name={request.name})")
        self._topic(request.topic)
        if len(request.filter.encode()) > 256:
            raise Refused(Code.INVALID_ARGUMENT, "The filter is too long")
        self.subscriptions[request.name] = Subscription(self, request)
        return request

    def call_GetSubscription(self, request: Any) -> Any:
        return self.find(request.subscription).proto

    def call_ListSubscriptions(self, request: Any) -> Any:
        found = [
            s.proto for n, s in sorted(self.subscriptions.items()) if n.startswith(f"{request.project}/")
        ]
        return types.ListSubscriptionsResponse.pb()(subscriptions=found)

    def call_DeleteSubscription(self, request: Any) -> Any:
        found = self.find(request.subscription)
        for stream in found.streams:
            stream.queue.put_nowait(Refused(Code.NOT_FOUND, "The subscription was deleted"))
        del self.subscriptions[request.subscription]
        return empty_pb2.Empty()

    def call_Acknowledge(self, request: Any) -> Any:
        return self._modified(request, None)

    def call_ModifyAckDeadline(self, request: Any) -> Any:
        return self._modified(request, request.ack_deadline_seconds)

    def _modified(self, request: Any, seconds: int | None) -> Any:
        subscription = self.find(request.subscription)
        refused = subscription.modify(list(request.ack_ids), seconds)
        subscription.deliver()
        if refused:
            raise AckFailure(refused)
        return empty_pb2.Empty()

    def call_Seek(self, request: Any) -> Any:
        subscription = self.find(request.subscription)
        topic = subscription.proto.topic
        if request.WhichOneof("target") == "snapshot":
            if request.snapshot not in self.snapshots:
                raise Refused(Code.NOT_FOUND, "Resource not found (snapshot).")
            _, acked = self.snapshots[request.snapshot]
            wanted = [m for m in self.log[topic] if m.message_id not in acked]
        else:
            moment = request.time.ToNanoseconds()
            kept = bool(self.topics[topic].message_retention_duration.seconds)
            wanted = [
                m
                for m in self.log[topic]
                if m.publish_time.ToNanoseconds() >= moment and (kept or m.message_id in subscription.backlog)
            ]
        for held in subscription.backlog.values():
            subscription._end_lease(held)
        subscription.backlog.clear()
        for message in wanted:
            subscription.add(message)
        left = set(subscription.backlog)
        subscription.acked = {m.message_id for m in self.log[topic]} - left
        subscription.deliver()
        return types.SeekResponse.pb()()

    def call_CreateSnapshot(self, request: Any) -> Any:
        subscription = self.find(request.subscription)
        if request.name in self.snapshots:
            raise Refused(Code.ALREADY_EXISTS, "Resource already exists in the project")
        topic = subscription.proto.topic
        acked = {m.message_id for m in self.log[topic]} - set(subscription.backlog)
        self.snapshots[request.name] = (topic, acked)
        return types.Snapshot.pb()(name=request.name, topic=topic)

    def call_DeleteSnapshot(self, request: Any) -> Any:
        if self.snapshots.pop(request.snapshot, None) is None:
            raise Refused(Code.NOT_FOUND, "Resource not found (snapshot).")
        return empty_pb2.Empty()

    # -- streaming ---------------------------------------------------------------------------------

    async def pull(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        """Answer a streaming pull."""
        await self.admit("StreamingPull", context)
        first = await anext(aiter(requests))
        try:
            subscription = self.find(first.subscription)
        except Refused as error:
            await context.abort(error.code, str(error))
        stream = Stream(
            first.max_outstanding_messages, first.max_outstanding_bytes, first.stream_ack_deadline_seconds
        )
        subscription.streams.append(stream)
        subscription.deliver()

        async def listen() -> None:
            async for request in requests:
                subscription.modify(list(request.ack_ids), None)
                for ack_id, seconds in zip(
                    request.modify_deadline_ack_ids, request.modify_deadline_seconds, strict=True
                ):
                    subscription.modify([ack_id], seconds)
                subscription.deliver()
            stream.queue.put_nowait(None)

        listening = asyncio.create_task(listen())
        properties = types.StreamingPullResponse.SubscriptionProperties.pb()(
            exactly_once_delivery_enabled=subscription.proto.enable_exactly_once_delivery,
            message_ordering_enabled=subscription.proto.enable_message_ordering,
        )
        try:
            while True:
                found = [await stream.queue.get()]
                while not stream.queue.empty() and len(found) < 100:
                    found.append(stream.queue.get_nowait())
                messages = [r for r in found if r is not None and not isinstance(r, Refused)]
                for at in range(0, len(messages), 20):
                    yield types.StreamingPullResponse.pb()(
                        received_messages=messages[at : at + 20], subscription_properties=properties
                    )
                for end in found:
                    if end is None:
                        return
                    if isinstance(end, Refused):
                        await context.abort(end.code, str(end))
        finally:
            listening.cancel()
            if stream in subscription.streams:
                subscription.streams.remove(stream)
            while not stream.queue.empty():  # never sent
                left = stream.queue.get_nowait()
                if left is not None and not isinstance(left, Refused):
                    held = subscription.backlog.get(left.message.message_id)
                    if held is not None and held.ack_id == left.ack_id:
                        held.deliveries -= 1
                        subscription.free(held)
            if self.frees:
                for held in list(subscription.backlog.values()):
                    if held.stream is stream:
                        subscription.free(held)
            subscription.deliver()

    async def end_leases_and_delays(self) -> None:
        """Expire leases and end delivery delays, for ever."""
        while True:
            await asyncio.sleep(0.02)
            for subscription in list(self.subscriptions.values()):
                subscription.deliver()

    # -- serving -----------------------------------------------------------------------------------

    async def admit(self, name: str, context: Any) -> None:
        """Check the token, and fail on demand."""
        if self.token is not None:
            given = dict(context.invocation_metadata() or ()).get("authorization")
            if given != f"Bearer {self.token}":
                await context.abort(Code.UNAUTHENTICATED, "Request had invalid authentication credentials.")
        planned = self.failures.get(name)
        if planned:
            code, text = planned.pop(0)
            await context.abort(code, text)

    def handler(self, name: str) -> Callable[[Any, Any], Any]:
        """Return the handler of a call with a single response."""
        call = getattr(self, f"call_{name}")

        async def handle(request: Any, context: Any) -> Any:
            await self.admit(name, context)
            try:
                answer = call(request)
                if name == "Publish":
                    for subscription in self.subscriptions.values():
                        if subscription.proto.topic == request.topic:
                            subscription.deliver()
                return answer
            except AckFailure as failure:
                context.set_trailing_metadata((("grpc-status-details-bin", failure.details),))
                await context.abort(Code.FAILED_PRECONDITION, "Some acknowledgement ids were invalid.")
            except Refused as refused:
                await context.abort(refused.code, str(refused))

        return handle

    async def plan(self, request: bytes, context: Any) -> bytes:
        """Make the next calls fail, by a request like ``{"call": "Publish", "code": "UNAVAILABLE", "times": 3}``."""
        wish = json.loads(request)
        if "invalid" in wish:
            self.invalid.append(wish["invalid"].encode())
            return b"{}"
        self.failures.setdefault(wish["call"], []).extend(
            [(Code[wish["code"]], wish.get("text", "planned"))] * wish.get("times", 1)
        )
        return b"{}"


class AckFailure(Exception):
    """Some ack ids are no longer valid."""

    def __init__(self, refused: dict[str, str]) -> None:
        super().__init__("refused")
        info = error_details_pb2.ErrorInfo(reason="FAILED", domain="pubsub.googleapis.com", metadata=refused)
        detail = any_pb2.Any()
        detail.Pack(info)
        status = status_pb2.Status(
            code=Code.FAILED_PRECONDITION.value[0], message="invalid", details=[detail]
        )
        self.details = status.SerializeToString()


def passing(text: str) -> Callable[[dict[str, str]], bool]:
    """Parse the part of the service's filter language that the mesh uses; return the predicate."""
    if not text:
        return lambda _: True
    tokens = re.findall(r'"[^"]*"|[()=,:]|[A-Za-z_-]+(?:\.(?:"[^"]*"|[\w-]+))?', text)

    def either(attributes: dict[str, str]) -> bool:
        position = 0

        def peek() -> str:
            return tokens[position] if position < len(tokens) else ""

        def take() -> str:
            nonlocal position
            position += 1
            return tokens[position - 1]

        def any_of() -> bool:
            found = all_of()
            while peek() == "OR":
                take()
                found = all_of() or found
            return found

        def all_of() -> bool:
            found = one()
            while peek() == "AND":
                take()
                found = one() and found
            return found

        def one() -> bool:
            token = take()
            if token == "NOT":
                return not one()
            if token == "(":
                found = any_of()
                assert take() == ")"
                return found
            if token == "hasPrefix":
                assert take() == "("
                name = key(take())
                assert take() == ","
                prefix = take().strip('"')
                assert take() == ")"
                return attributes.get(name, "\0").startswith(prefix)
            operator = take()
            if operator == ":":
                return take().strip('"') in attributes
            assert operator == "="
            return attributes.get(key(token)) == take().strip('"')

        return any_of()

    def key(token: str) -> str:
        return token.partition(".")[2].strip('"')

    return either


async def serve(
    port: int,
    token: str | None = None,
    certificate: str | None = None,
    private: str | None = None,
    frees: bool = False,
) -> None:
    """Serve until the process is terminated."""
    state = Server(token, frees)
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        )
    )
    unary: dict[str, dict[str, Any]] = {"Publisher": {}, "Subscriber": {}}
    shapes = {
        "Publish": types.PublishRequest, "CreateTopic": types.Topic, "UpdateTopic": types.UpdateTopicRequest,
        "GetTopic": types.GetTopicRequest, "ListTopics": types.ListTopicsRequest, "DeleteTopic": types.DeleteTopicRequest,
        "ListTopicSubscriptions": types.ListTopicSubscriptionsRequest, "CreateSubscription": types.Subscription,
        "GetSubscription": types.GetSubscriptionRequest, "ListSubscriptions": types.ListSubscriptionsRequest,
        "DeleteSubscription": types.DeleteSubscriptionRequest, "Acknowledge": types.AcknowledgeRequest,
        "ModifyAckDeadline": types.ModifyAckDeadlineRequest, "Seek": types.SeekRequest,
        "CreateSnapshot": types.CreateSnapshotRequest, "DeleteSnapshot": types.DeleteSnapshotRequest,
    }  # fmt: skip
    for name, shape in shapes.items():
        of = "Publisher" if "Topic" in name or name == "Publish" else "Subscriber"
        unary[of][name] = grpc.unary_unary_rpc_method_handler(
            state.handler(name),
            request_deserializer=shape.pb().FromString,
            response_serializer=lambda answer: answer.SerializeToString(),
        )
    unary["Subscriber"]["StreamingPull"] = grpc.stream_stream_rpc_method_handler(
        state.pull,
        request_deserializer=types.StreamingPullRequest.pb().FromString,
        response_serializer=lambda answer: answer.SerializeToString(),
    )
    handlers = [
        grpc.method_handlers_generic_handler(f"google.pubsub.v1.{service}", methods)
        for service, methods in unary.items()
    ]
    handlers.append(
        grpc.method_handlers_generic_handler(
            "test.Control", {"Plan": grpc.unary_unary_rpc_method_handler(state.plan)}
        )
    )
    server.add_generic_rpc_handlers(handlers)
    address = f"127.0.0.1:{port}"
    if certificate and private:
        pair = (Path(private).read_bytes(), Path(certificate).read_bytes())
        server.add_secure_port(address, grpc.ssl_server_credentials((pair,)))
    else:
        server.add_insecure_port(address)
    await server.start()
    looking = asyncio.create_task(state.end_leases_and_delays())
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    looking.cancel()
    await server.stop(0.1)


class SmallPubSub(PubSub):
    """A running small server."""

    async def plan(self, call: str, code: str, times: int = 1, text: str = "planned") -> None:
        """Make the next calls fail."""
        await self._control({"call": call, "code": code, "times": times, "text": text})

    async def refuse(self, text: str) -> None:
        """Refuse messages whose data contain a text, as a topic with a schema does."""
        await self._control({"invalid": text})

    async def _control(self, wish: dict[str, Any]) -> None:
        async with grpc.aio.insecure_channel(self.address) as channel:
            await channel.unary_unary("/test.Control/Plan")(json.dumps(wish).encode())


@contextmanager
def pubsub_small(**options: Any) -> Iterator[SmallPubSub]:
    """Start a new server, which is stopped at the end."""
    (port,) = free_ports(1)
    with folder_kept_on_failure("pubsub-small") as folder:
        told = json.dumps({"port": port, **options})
        command = [sys.executable, "-m", "servers.pubsub.small", told]
        root = str(Path(__file__).parents[2])
        server = SmallPubSub(port, ServerProcess(command, folder / "pubsub.log", {"PYTHONPATH": root}))
        server.start()
        try:
            yield server
        finally:
            server.process.stop()


if __name__ == "__main__":
    asyncio.run(serve(**json.loads(sys.argv[1])))
