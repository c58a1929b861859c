"""Other clients of the broker: they read what the mesh publishes, and the mesh reads what they publish."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal, NamedTuple, Protocol

import pytest

from dimesh import Event, EventBus, EventMetadata, StartAt
from dimesh_contracts.broker.guarantees import BrokerGuarantee as G
from dimesh_contracts.bus.harness import BusHarness, NewBackend
from dimesh_contracts.contract import proves
from dimesh_contracts.waiting import deadline, until

Mode = Literal["binary", "structured"]
"""How a message carries a CloudEvent: as attributes beside the data, or as one JSON document."""
ORDER: Final = {
    "id": "o-1",
    "source": "/shop",
    "type": "com.shop.order",
    "specversion": "1.0",
    "color": "red",
}


class ForeignMessage(NamedTuple):
    """A message as a client reads it that does not know dimesh."""

    key: str
    """The ordering key."""
    event: Mapping[str, Any]
    """The CloudEvents attributes and extensions, by their names without a prefix, as another implementation reads them."""
    headers: Mapping[str, str]
    """All headers that are text."""
    data: bytes


class ForeignClient(Protocol):
    """A client of the broker that does not know dimesh: the broker's own, and an SDK for CloudEvents."""

    def reading(self, topic: str) -> AbstractAsyncContextManager[Callable[[], Awaitable[ForeignMessage]]]:
        """Open a reader for a topic that exists; the function that it gives returns the next message."""
        ...

    async def publish(
        self,
        topic: str,
        key: str,
        attributes: Mapping[str, str],
        data: Any,
        mode: Mode,
        headers: Mapping[str, str],
    ) -> None:
        """Publish a CloudEvent with JSON data and further headers; return when the broker has it."""
        ...


class Interop(BusHarness):
    """Tests with other clients."""

    @pytest.fixture
    def client(self) -> ForeignClient:
        """Return a client; parametrize the fixture to test with several."""
        raise NotImplementedError("give your test class a fixture 'client'")

    @proves(G.OUTBOUND)
    async def test_others_read_our_events(
        self, new_backend: NewBackend, client: ForeignClient, topic: str
    ) -> None:
        """Usually wrong: attributes that only dimesh can read, or a key that is not the broker's key."""
        bus = EventBus(new_backend())
        await bus.publish(topic, Event("first.made", None, 0))
        async with client.reading(topic) as read:
            sent = Event(
                "growth.lead_scored",
                EventMetadata(
                    source_pillar="Growth Engine",
                    source_agent="scorer",
                    correlation_id="c-1",
                    tags={"a": "ü"},
                ),
                {"score": 93, "name": "Zoë"},
            ).replace(headers={"x-own": "1"})
            await bus.publish(topic, sent, key="lead-7")
            message = await self._message(read, sent.event_id)
        assert message.key == "lead-7"
        assert message.headers["x-own"] == "1"
        assert message.headers["content-type"] == "application/json"
        assert message.event["type"] == "growth.lead_scored"
        assert message.event["source"] == "/dimesh/Growth%20Engine/scorer"
        assert message.event["time"] == sent.metadata.timestamp
        assert message.event["correlationid"] == "c-1"
        assert json.loads(message.data) == {"score": 93, "name": "Zoë"}
        await bus.close()

    @proves(G.INBOUND)
    @pytest.mark.parametrize("mode", ["binary", "structured"])
    async def test_we_read_the_events_of_others(
        self, new_backend: NewBackend, client: ForeignClient, topic: str, mode: Mode
    ) -> None:
        """The event is handled, and published again it is read as it came. Usually wrong: an extension or a header that is
        lost, or a source that becomes ours.
        """
        bus = EventBus(new_backend())
        handled: list[Event] = []
        await bus.subscribe(topic, handled.append, "g", start=StartAt.EARLIEST)
        await client.publish(topic, "order-1", ORDER, {"total": 5}, mode, {"x-own": "2"})
        await until(lambda: len(handled) == 1)
        (found,) = handled
        assert (found.event_id, found.event_type.value, found.payload) == (
            "o-1",
            "com.shop.order",
            {"total": 5},
        )
        assert found.metadata.source_agent == "/shop"
        assert found.headers["ce-color"] == "red"
        assert found.headers["x-own"] == "2"
        onward = f"{topic}.on"
        await bus.publish(onward, Event("first.made", None, 0))
        async with client.reading(onward) as read:
            await bus.publish(onward, found, key="order-1")
            message = await self._message(read, "o-1")
        assert (message.event["source"], message.event["type"]) == ("/shop", "com.shop.order")
        assert message.event["color"] == "red"
        assert message.headers["x-own"] == "2"
        await bus.close()

    @staticmethod
    async def _message(read: Callable[[], Awaitable[ForeignMessage]], event_id: str) -> ForeignMessage:
        """Return the message of an event; a client that reads from the beginning finds others before it."""
        async with deadline():
            while (message := await read()).event["id"] != event_id:
                pass
        return message
