"""Any backend against the reference: hypothesis thinks of things to do, both do them, and their users must see the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, cast
from uuid import uuid4

from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dimesh import EventBusFactory, StartAt
from dimesh.bus.engine import EventBus
from dimesh.bus.options import SubscriptionOptions
from dimesh.bus.redrive import DeadLetters
from dimesh.bus.retry import RetryPolicy
from dimesh.capabilities import Capability
from dimesh.errors import TopicNotFoundError
from dimesh.events import Event
from dimesh_contracts import effort
from dimesh_contracts.bus.guarantees import BusGuarantee as G
from dimesh_contracts.bus.harness import BusHarness, NewBackend
from dimesh_contracts.contract import proves
from dimesh_contracts.limit import within
from dimesh_contracts.waiting import patience

T = TypeVar("T")
GROUPS = ("one", "two")
ATTEMPTS = 3


class Side:
    """One of the two buses, and what the users of its groups saw."""

    def __init__(self, make: Callable[[], EventBus], topic: str) -> None:
        self._make = make
        self.bus = make()
        self.topic = topic
        self.handled: dict[str, dict[str, list[int]]] = {}
        self.tries: dict[tuple[str, int], int] = {}

    async def publish(self, key: str, events: list[tuple[int, int]]) -> None:
        """Publish events, each given as ``(number, failures)``."""
        await self.bus.publish_many(
            self.topic, [Event("model.event", None, [n, failures, key]) for n, failures in events], key=key
        )

    async def subscribe(self, group: str, start: StartAt) -> None:
        """Subscribe a handler that fails as often as each event says."""

        async def handle(event: Event) -> None:
            number, failures, key = event.payload
            tried = self.tries[group, number] = self.tries.get((group, number), 0) + 1
            # What was buried may come again, as anything may; it must not succeed then, or the two could not be compared.
            if tried <= failures or failures >= ATTEMPTS:
                raise ValueError(f"attempt {tried}")
            seen = self.handled.setdefault(group, {}).setdefault(key, [])
            if number not in seen:  # at least once: a repeat is allowed, out of order is not
                seen.append(number)

        options = SubscriptionOptions(retry=RetryPolicy(attempts=ATTEMPTS, base=0))
        await self.bus.subscribe(self.topic, handle, group, start=start, options=options)

    async def restart(self) -> None:
        """Close the bus and open another one over the same storage, without the groups."""
        if Capability.DURABLE in self.bus.capabilities:
            await self.bus.close()
            self.bus = self._make()
            await self.bus.open()
        else:
            for group in tuple(self.bus.stats()):
                await self.bus.unsubscribe(group)

    async def seek(self, group: str) -> None:
        """Move a group back to the beginning."""
        await self.bus.door.seek_group(self.topic, group, StartAt.EARLIEST)
        self.handled.pop(group, None)
        for key in [key for key in self.tries if key[0] == group]:
            del self.tries[key]

    async def dead_letters(self) -> list[tuple[str, int]]:
        """Return the group and the number of each dead letter."""
        try:
            entries = await DeadLetters(self.bus).entries(self.topic)
        except TopicNotFoundError:
            return []
        return sorted((entry.group, entry.event.payload[0]) for entry in entries)


class Comparison(RuleBasedStateMachine):
    """The same steps on the backend and on the reference."""

    def __init__(self, new_backend: NewBackend) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        topic = f"model.{uuid4().hex[:12]}"
        self._new_backend = new_backend
        self._run(self._make(topic))
        self._number = 0
        self._open: set[str] = set()
        self._known: set[str] = set()

    async def _make(self, topic: str) -> None:
        self._subject = Side(lambda: EventBus(self._new_backend()), topic)
        self._reference = Side(lambda: EventBusFactory.create("memory", history=100_000), topic)
        await self._both(lambda side: side.bus.open())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    async def _both(self, step: Callable[[Side], Awaitable[Any]]) -> tuple[Any, Any]:
        async def steps() -> tuple[Any, Any]:
            return await step(self._subject), await step(self._reference)

        return await within(patience(3), steps())

    def _do(self, step: Callable[[Side], Awaitable[Any]]) -> tuple[Any, Any]:
        return self._run(self._both(step))

    @initialize(start=st.sampled_from(StartAt))
    def first_group(self, start: StartAt) -> None:
        self.subscribe("one", start)

    @rule(
        key=st.sampled_from("abc"),
        failures=st.lists(st.sampled_from([0, 0, 0, 0, 1, 2, ATTEMPTS]), min_size=1, max_size=6),
    )
    def publish(self, key: str, failures: list[int]) -> None:
        events = []
        for failed in failures:
            self._number += 1
            events.append((self._number, failed))
        self._do(lambda side: side.publish(key, events))

    @rule(group=st.sampled_from(GROUPS), start=st.sampled_from(StartAt))
    def subscribe(self, group: str, start: StartAt) -> None:
        if group not in self._open:
            self._open.add(group)
            self._known.add(group)
            self._do(lambda side: side.subscribe(group, start))

    @rule(group=st.sampled_from(GROUPS))
    def unsubscribe(self, group: str) -> None:
        if group in self._open:
            self._open.discard(group)
            self._do(lambda side: side.bus.unsubscribe(group))

    @precondition(lambda self: "two" in self._known - self._open)
    @rule()
    def seek(self) -> None:
        self._do(lambda side: side.seek("two"))

    @rule()
    def restart(self) -> None:
        self._open.clear()
        self._do(lambda side: side.restart())

    @rule()
    def compare(self) -> None:
        """Check that both sides handled the same events, in the same order for each key."""
        self._do(lambda side: side.bus.idle())
        for group in self._open:
            ours, expected = (side.handled.get(group, {}) for side in (self._subject, self._reference))
            assert ours == expected, f"group {group!r}: {ours} handled, {expected} expected"
        if self._open >= self._known and Capability.REPLAY in self._subject.bus.capabilities:
            ours, expected = self._do(lambda side: side.dead_letters())
            # A group that was moved back has failed at the same events again.
            assert set(ours) == set(expected), f"dead letters: {ours}, expected {expected}"

    def teardown(self) -> None:
        try:
            for group in sorted(self._known - self._open):
                self.subscribe(group, StartAt.LATEST)
            self.compare()
        finally:
            self._do(lambda side: side.bus.close())
            self._runner.close()


class AgainstTheReference(BusHarness):
    """One test with many cases."""

    @proves(G.AS_THE_REFERENCE, Capability.GROUPS, Capability.REPLAY, Capability.KEY_ORDER)
    def test_it_does_what_the_reference_does(self, new_backend: NewBackend) -> None:
        """Publishing, subscribing, failing, leaving, seeking and restarting in any order shows the users of both buses the
        same events in the same order, and the same dead letters. Usually wrong: something that no other test covers; the
        steps that hypothesis prints are the shortest that it found. ``--contract-examples`` and ``--contract-seed`` run more of
        it, or the same again.
        """
        run_state_machine_as_test(
            seed(effort.seed())(
                cast(Any, lambda: Comparison(new_backend))
            ),  # any callable that makes a machine will do
            settings=settings(
                max_examples=effort.examples(),
                stateful_step_count=20,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
