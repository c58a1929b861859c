"""The demo of the durable bus: filters, an event that cannot be handled, dead letters, redrive."""

from __future__ import annotations

from dimesh.bus.engine import EventBus
from dimesh.bus.factory import EventBusFactory
from dimesh.bus.handler import EventHandler
from dimesh.bus.options import SubscriptionOptions
from dimesh.bus.redrive import DeadLetters
from dimesh.bus.retry import RetryPolicy
from dimesh.demo.stage import Stage
from dimesh.events import Event, EventMetadata, EventPriority, EventType, Topics


def growth(kind: EventType, payload: object, priority: EventPriority = EventPriority.NORMAL) -> Event:
    """Return an event of the demo's marketing agent."""
    metadata = EventMetadata(source_pillar="Growth Engine", source_agent="marketing_agent", priority=priority)
    return Event(kind, metadata, payload)


async def play(stage: Stage) -> None:
    """Publish, filter, fail and redrive; then reopen the same file and find everything."""
    campaigns: list[str] = []
    charged: list[str] = []
    urgent: list[str] = []
    repaired = False

    async def on_campaign(event: Event) -> None:
        campaigns.append(event.payload["campaign_id"])

    async def on_deal(event: Event) -> None:
        payload = event.payload
        if payload["amount"] < 0 and not repaired:
            raise ValueError(f"negative amount {payload['amount']}")
        charged.append(payload["deal"])

    async def on_urgent(event: Event) -> None:
        urgent.append(event.event_type.value)

    options = SubscriptionOptions(retry=RetryPolicy(attempts=3, base=0.01))
    async with EventBusFactory.create("sqlite", path=stage.database) as bus:
        await bus.subscribe(
            Topics.GROWTH, EventHandler(on_campaign, event_types=[EventType.CAMPAIGN_LAUNCH]), "campaigns"
        )
        await bus.subscribe(
            Topics.GROWTH, EventHandler(on_deal, event_types=[EventType.DEAL_WON]), "billing", options=options
        )
        await bus.subscribe(
            Topics.GROWTH, EventHandler(on_urgent, priority_filter=[EventPriority.CRITICAL]), "pager"
        )
        await bus.publish_many(
            Topics.GROWTH,
            [
                growth(EventType.CAMPAIGN_LAUNCH, {"campaign_id": "camp_001"}),
                growth(EventType.CAMPAIGN_LAUNCH, {"campaign_id": "camp_002"}),
                growth(EventType.DEAL_WON, {"deal": "d-1", "amount": 12_000}),
                growth(EventType.DEAL_WON, {"deal": "d-2", "amount": -1}),
                growth(EventType.DEAL_WON, {"deal": "d-3", "amount": 800}, EventPriority.CRITICAL),
            ],
        )
        await bus.idle()
        stage.step("5 events were published, each on disk before the call returned", True)
        stage.step(
            "filters: campaigns, deals and the pager got their events",
            (campaigns, urgent) == (["camp_001", "camp_002"], ["deal.won"]),
            f"campaigns {campaigns}, pager {urgent}",
        )
        letters = DeadLetters(bus)
        entries = await letters.entries(Topics.GROWTH)
        stage.step(
            "the event that always fails was tried 3 times and is a dead letter; the next one was handled",
            len(entries) == 1 and entries[0].attempts == 3 and charged == ["d-1", "d-3"],
            entries[0].reason if entries else "there is no dead letter",
        )
        repaired = True
        result = await letters.redrive(Topics.GROWTH)
        await bus.idle()
        stage.step(
            "the handler was repaired, and the event was redriven to the group that failed",
            len(result.done) == 1 and charged == ["d-1", "d-3", "d-2"],
            f"deals handled {charged}",
        )
        await _leave_dead_letter(bus)
    await _reopen(stage)


async def _reopen(stage: Stage) -> None:
    async with EventBusFactory.create("sqlite", path=stage.database) as bus:
        infos = await bus.door.topics()
        groups = await bus.door.groups()
        lag = {g: sum(i.lag or 0 for i in groups if i.group == g) for g in sorted({i.group for i in groups})}
    stage.step(
        "the file was reopened: topics and positions are unchanged",
        all(n == 0 for n in lag.values()),
        f"lag {lag}",
    )
    stage.table(("topic", "records", "bytes"), [(t.name, t.records, t.size) for t in infos])
    mesh = f"dimesh --bus-path {stage.database}"
    stage.try_next(f"{mesh} tail {Topics.GROWTH}", "the events")
    stage.try_next(f"{mesh} topics", "the topics")
    stage.try_next(f"{mesh} groups", "the position of each group")
    stage.try_next(f"{mesh} dlq list", "an event that is still a dead letter")
    stage.try_next(f"{mesh} dlq redrive orders", "have it handled again")


async def _leave_dead_letter(bus: EventBus) -> None:
    """Leave one dead letter that the user can inspect after the demo."""

    async def refuse(event: Event) -> None:
        raise LookupError(f"no product {event.payload['product']}")

    options = SubscriptionOptions(retry=RetryPolicy(attempts=1))
    await bus.subscribe("orders", EventHandler(refuse, name="shop.ship"), "shipping", options=options)
    metadata = EventMetadata(source_pillar="Resource & Supply", source_agent="order_agent")
    await bus.publish("orders", Event("order.created", metadata, {"order": 7, "product": "p-404"}))
    await bus.idle()
