"""Dead letters, as typed results."""

from __future__ import annotations

import pytest

from dimesh.bus.options import SubscriptionOptions
from dimesh.bus.retry import RetryPolicy
from dimesh.errors import DeadLetterNotFoundError
from dimesh.events import Event
from dimesh.mesh import Mesh
from dimesh.ops.dead_letters import discard, find_dead_letters, list_dead_letters, redrive
from dimesh.ops.topics import list_topics
from dimesh_contracts.waiting import eventually


def fail(event: Event) -> None:
    raise LookupError(f"no product {event.payload}")


async def test_from_the_list_to_a_redrive_and_a_discard(mesh: Mesh) -> None:
    options = SubscriptionOptions(retry=RetryPolicy(attempts=1))
    subscription = await mesh.bus.subscribe("orders", fail, group="shipping", options=options)
    for n in (1, 2):
        await mesh.bus.publish("orders", Event("order.created", None, n))

    async def two() -> bool:
        return "orders.dlq" in [t.topic for t in await list_topics(mesh.bus)] and (
            len(await list_dead_letters(mesh.bus)) == 2
        )

    await eventually(two)
    await mesh.bus.unsubscribe(subscription)
    first, second = await list_dead_letters(mesh.bus, "orders")
    assert (first.reason, first.group, first.attempts, first.state) == (
        "LookupError: no product 1",
        "shipping",
        1,
        "open",
    )
    (found,) = await find_dead_letters(mesh.bus, "orders", first.event_id)
    assert (found.summary, found.event.payload) == (first, 1)
    assert [e.event_id for e in (await redrive(mesh.bus, "orders", limit=1)).done] == [first.event_id]
    change = await discard(mesh.bus, "orders", ids=[second.event_id])
    assert ([e.event_id for e in change.done], change.skipped) == ([second.event_id], ())
    assert await list_dead_letters(mesh.bus, "orders") == []
    states = [e.state for e in await list_dead_letters(mesh.bus, "orders", include_closed=True)]
    assert states == ["redriven", "discarded"]
    with pytest.raises(DeadLetterNotFoundError, match="no dead letter of orders has the id 'nope'"):
        await find_dead_letters(mesh.bus, "orders", "nope")
