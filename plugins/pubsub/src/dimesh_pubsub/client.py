"""The connection: one gRPC channel on the event loop, and the calls over it.

The messages and the names of the calls are from Google's package; its own publisher and subscriber, which use threads, are
not used. Messages are plain protobuf: the package's wrapper around them costs more than everything else.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import google.auth
import google.auth.exceptions
import grpc
from google.api_core import grpc_helpers_async
from google.oauth2 import service_account
from google.protobuf import empty_pb2
from google.pubsub_v1 import types

from dimesh.clock import Clock
from dimesh.errors import BusError, ConfigurationError
from dimesh_pubsub.failures import TRANSIENT, code_of, explained
from dimesh_pubsub.options import WHERE, PubSubOptions

SCOPES: Final = ("https://www.googleapis.com/auth/pubsub",)
_CHANNEL: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # Otherwise channels with the same options share their connection with other backends of this process.
    ("grpc.use_local_subchannel_pool", 1),
)
_CALLS: Final[dict[str, tuple[str, Any, Any]]] = {
    "Publish": ("Publisher", types.PublishRequest, types.PublishResponse),
    "CreateTopic": ("Publisher", types.Topic, types.Topic),
    "UpdateTopic": ("Publisher", types.UpdateTopicRequest, types.Topic),
    "GetTopic": ("Publisher", types.GetTopicRequest, types.Topic),
    "ListTopics": ("Publisher", types.ListTopicsRequest, types.ListTopicsResponse),
    "ListTopicSubscriptions": (
        "Publisher",
        types.ListTopicSubscriptionsRequest,
        types.ListTopicSubscriptionsResponse,
    ),
    "DeleteTopic": ("Publisher", types.DeleteTopicRequest, None),
    "CreateSubscription": ("Subscriber", types.Subscription, types.Subscription),
    "GetSubscription": ("Subscriber", types.GetSubscriptionRequest, types.Subscription),
    "ListSubscriptions": ("Subscriber", types.ListSubscriptionsRequest, types.ListSubscriptionsResponse),
    "DeleteSubscription": ("Subscriber", types.DeleteSubscriptionRequest, None),
    "Acknowledge": ("Subscriber", types.AcknowledgeRequest, None),
    "ModifyAckDeadline": ("Subscriber", types.ModifyAckDeadlineRequest, None),
    "Seek": ("Subscriber", types.SeekRequest, types.SeekResponse),
    "CreateSnapshot": ("Subscriber", types.CreateSnapshotRequest, types.Snapshot),
    "DeleteSnapshot": ("Subscriber", types.DeleteSnapshotRequest, None),
}


def routing(request: Any) -> tuple[tuple[str, str], ...]:
    """Return the metadata by which the service routes a request, as Google's own clients send it."""
    for field in ("subscription", "topic", "project", "snapshot", "name"):
        value = getattr(request, field, None)
        if value and isinstance(value, str):
            return (("x-goog-request-params", f"{field}={quote(value, safe='')}"),)
    return ()


class Client:
    """The calls of the service. Requests and answers are plain protobuf messages: ``Client.message("Topic")(name=…)``."""

    def __init__(self, options: PubSubOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._channel: grpc.aio.Channel | None = None
        self._stubs: dict[str, Any] = {}
        self.project = f"projects/{options.project_id}"
        self.emulator = options.emulator_host or os.environ.get("PUBSUB_EMULATOR_HOST") or None
        self.address = self.emulator or options.endpoint

    def topic(self, id: str) -> str:
        """Return the full name of a topic."""
        return f"{self.project}/topics/{id}"

    def subscription(self, id: str) -> str:
        """Return the full name of a subscription."""
        return f"{self.project}/subscriptions/{id}"

    def snapshot(self, id: str) -> str:
        """Return the full name of a snapshot."""
        return f"{self.project}/snapshots/{id}"

    @staticmethod
    def message(name: str) -> Any:
        """Return the protobuf class with that name."""
        return getattr(types, name).pb()

    async def open(self) -> None:
        """Open the channel, and check that the service answers and accepts the credentials.

        Raises:
            ConfigurationError: a file in the options cannot be used.
            BusError: the service does not answer, or refuses the credentials.
        """
        if self.emulator is not None:
            channel = grpc.aio.insecure_channel(self.emulator, options=_CHANNEL)
        else:
            channel = await self._secure_channel()
        self._channel = channel
        for name, (service, request, answer) in _CALLS.items():
            self._stubs[name] = channel.unary_unary(
                f"/google.pubsub.v1.{service}/{name}",
                request_serializer=request.pb().SerializeToString,
                response_deserializer=(answer.pb() if answer else empty_pb2.Empty).FromString,
            )
        self.pull = channel.stream_stream(
            "/google.pubsub.v1.Subscriber/StreamingPull",
            request_serializer=types.StreamingPullRequest.pb().SerializeToString,
            response_deserializer=types.StreamingPullResponse.pb().FromString,
        )
        probe = self.message("GetTopicRequest")(topic=self.topic("dimesh-is-anybody-there"))
        try:
            await self.call("GetTopic", probe, f"reach Pub/Sub at {self.address}")
        except grpc.RpcError as error:
            # Any answer will do: the topic need not exist, and the account need not have access to it.
            if code_of(error) not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED):
                await self.close()
                raise explained(error, f"use Pub/Sub at {self.address}") from error
        except BusError:
            await self.close()
            raise

    def _credentials(self) -> Any:
        file = self._options.credentials_file
        try:
            if file is not None:
                return service_account.Credentials.from_service_account_file(  # type: ignore[no-untyped-call]
                    file, scopes=SCOPES
                )
            return google.auth.default(scopes=SCOPES)[0]
        except (google.auth.exceptions.GoogleAuthError, OSError, ValueError) as error:
            what = f"credentials_file {file!r}" if file else "Application Default Credentials"
            raise ConfigurationError(
                f"{what} cannot be used: {error}"
                + ("" if file else ". Set credentials_file, or emulator_host for an emulator"),
                subject=WHERE,
            ) from error

    async def _secure_channel(self) -> grpc.aio.Channel:
        options = self._options
        credentials = await asyncio.to_thread(self._credentials)  # this may ask the machine's metadata server
        roots = None
        if options.tls_ca is not None:
            try:
                roots = Path(options.tls_ca).read_bytes()
            except OSError as error:
                raise ConfigurationError(
                    f"tls_ca {options.tls_ca!r} cannot be read: {error}", subject=WHERE
                ) from error
        channel = grpc_helpers_async.create_channel(
            options.endpoint,
            credentials=credentials,
            scopes=SCOPES,
            ssl_credentials=grpc.ssl_channel_credentials(roots),
            options=_CHANNEL,
        )
        assert isinstance(channel, grpc.aio.Channel)
        return channel

    async def close(self) -> None:
        """Disconnect."""
        if self._channel is not None:
            await self._channel.close(None)

    async def once(self, name: str, request: Any, timeout: float) -> Any:
        """Make a call without retries.

        Raises:
            grpc.RpcError: the call failed.
        """
        return await self._stubs[name](request, timeout=timeout, metadata=routing(request))

    async def call(self, name: str, request: Any, doing: str, timeout: float | None = None) -> Any:
        """Make a call; repeat it after transient errors while there is time.

        Args:
            name: the name of the call.
            request: the message to send.
            doing: what the call does, for the error message.
            timeout: the seconds for all attempts; None: the option ``request_timeout``.

        Raises:
            grpc.RpcError: the service refused; the caller knows what that means.
            BusError: the service did not answer in time.
        """
        end = self._clock.monotonic() + (timeout or self._options.request_timeout)
        wait = 0.05
        while True:
            left = end - self._clock.monotonic()
            try:
                return await self.once(name, request, max(left, 0.1))
            except grpc.RpcError as error:
                if code_of(error) not in TRANSIENT:
                    raise
                if self._clock.monotonic() + wait >= end:
                    raise explained(error, doing) from error
            await self._clock.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
            wait = min(wait * 2, 5.0)
