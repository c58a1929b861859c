"""The built-in sinks keep the contract; a failing sink holds up nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from dimesh.backends.lineage import file as lineage_file
from dimesh.backends.lineage import memory as lineage_memory
from dimesh.backends.lineage.file import FileSink, FileSinkOptions
from dimesh.backends.lineage.memory import MemorySink, MemorySinkOptions
from dimesh.capabilities import Capabilities, Capability
from dimesh.clock import ManualClock
from dimesh.errors import ConfigurationError, LineageError
from dimesh.lineage import LineageQuery, LineageService
from dimesh.spi.context import PluginContext
from dimesh.spi.lineage import LineageRecord, LineageSink
from dimesh_contracts.lineage import LineageSinkContract, NewSink


class TestMemorySink(LineageSinkContract):
    offers = frozenset({Capability.READ_BACK})

    @pytest.fixture
    def new_sink(self) -> NewSink:
        sink = MemorySink()
        return lambda: sink


class TestFileSink(LineageSinkContract):
    offers = frozenset(
        {Capability.READ_BACK, Capability.DURABLE, Capability.RETENTION, Capability.POWER_SAFE}
    )

    @pytest.fixture
    def new_sink(self, tmp_path) -> NewSink:
        return lambda: FileSink(FileSinkOptions(path=str(tmp_path / "log"), segment_bytes=50_000))


class TestFileSinkAlways(LineageSinkContract):
    offers = frozenset(
        {Capability.READ_BACK, Capability.DURABLE, Capability.RETENTION, Capability.POWER_SAFE}
    )

    @pytest.fixture
    def new_sink(self, tmp_path) -> NewSink:
        return lambda: FileSink(FileSinkOptions(path=str(tmp_path / "log"), durability="always"))


@pytest.mark.parametrize(
    ("plugin", "good", "bad"),
    [
        (lineage_memory.plugin, {"capacity": 5}, {"capacity": 0}),
        (lineage_memory.plugin, {}, {"capacitee": 5}),
        (lineage_file.plugin, {"path": "x"}, {}),
        (
            lineage_file.plugin,
            {"path": "x", "durability": "always"},
            {"path": "x", "durability": "sometimes"},
        ),
        (lineage_file.plugin, {"path": "x", "sync_interval": 2}, {"path": "x", "segment_bytes": 3}),
    ],
)
def test_plugins_make_sinks_and_refuse_unknown_options(plugin, good, bad):
    sink = plugin.dimesh_lineage_sink(options=good, context=PluginContext())
    assert isinstance(sink, LineageSink)
    with pytest.raises(ConfigurationError):
        plugin.dimesh_lineage_sink(options=bad, context=PluginContext())


async def test_memory_sink_counts_evicted_records():
    sink = MemorySink(MemorySinkOptions(capacity=3))
    async with LineageService(sinks=[sink]) as lineage:
        for number in range(5):
            await lineage.add_node(f"agent:{number}", "agent", "A")
        await lineage.flush()
        assert [record.id for record in sink.records] == ["agent:2", "agent:3", "agent:4"]
        assert lineage.stats()["sinks"][0]["displaced"] == 2


async def test_file_log_is_synced_after_the_interval(tmp_path):
    clock = ManualClock()
    sink = FileSink(FileSinkOptions(path=str(tmp_path), sync_interval=5), clock)
    await sink.open()
    await sink.write([LineageRecord("node", "agent:a", "agent", 1.0)])
    assert sink._log._unsynced
    await clock.advance(5)
    await sink._syncing
    assert not sink._log._unsynced
    await sink.close()
    assert clock.pending == 0


class Unreliable:
    """A sink that fails the next ``failures`` writes, or hangs."""

    name = "unreliable"

    def __init__(
        self, failures: float = 0, hangs: bool = False, capabilities: Capabilities | None = None
    ) -> None:
        self.capabilities = capabilities or Capabilities()
        self.failures = failures
        self.hangs = hangs
        self.taken: list[LineageRecord] = []

    async def open(self) -> None: ...

    async def write(self, records: Sequence[LineageRecord]) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.failures > 0:
            self.failures -= 1
            raise LineageError("no answer")
        self.taken += records

    async def read(self):
        for batch in ():
            yield batch

    async def forget(self, before: float) -> int:
        return 0

    def stats(self):
        return {}

    async def close(self) -> None: ...


async def until(condition, clock: ManualClock, step: float = 40.0, tries: int = 200) -> None:
    for _ in range(tries):
        if condition():
            return
        await clock.advance(step)
    raise AssertionError("it did not happen")


async def test_a_failing_sink_is_retried_and_does_not_stop_the_others():
    clock = ManualClock()
    bad, good = Unreliable(failures=3), Unreliable()
    lineage = LineageService(sinks=[bad, good], clock=clock, seed=1)
    await lineage.add_edge("agent:a", "tool:t", "invokes", "trace")
    await until(lambda: good.taken, clock, step=0)
    assert not bad.taken
    assert (await lineage.query_lineage(LineageQuery(node_id="agent:a")))["stats"]["total_edges"] == 1
    await until(lambda: bad.taken, clock)
    assert bad.taken == good.taken
    first = lineage.stats()["sinks"][0]
    assert (first["retries"], first["lost"], first["last_error"]) == (3, 0, "")
    await lineage.close()


async def test_a_dead_sink_loses_only_its_own_records_and_counts_them():
    clock = ManualClock()
    dead, good = Unreliable(failures=float("inf")), Unreliable()
    lineage = LineageService(sinks=[dead, good], clock=clock, seed=1)
    for number in range(10):
        await lineage.add_edge("agent:a", f"tool:{number}", "invokes", "trace")
    flushing = asyncio.create_task(lineage.flush())
    await until(flushing.done, clock)
    await flushing
    stats = {s["name"] + str(s["lost"] > 0): s for s in lineage.stats()["sinks"]}
    assert stats["unreliableTrue"]["lost"] == stats["unreliableFalse"]["written"] == len(good.taken)
    assert "no answer" in stats["unreliableTrue"]["last_error"]
    await lineage.close()


async def test_a_hanging_sink_times_out():
    hanging, good = Unreliable(hangs=True), Unreliable()
    lineage = LineageService(sinks=[hanging, good], sink_timeout=0.01, seed=1)
    await lineage.add_node("agent:a", "agent", "A")
    await asyncio.wait_for(lineage.close(), 20)
    assert lineage.stats()["sinks"][0]["lost"] == 1
    assert len(good.taken) == 1


async def test_a_sink_that_swallows_its_time_out_does_not_hold_up_closing():
    class Deaf(Unreliable):
        async def write(self, records):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.Event().wait()

        async def close(self):
            await asyncio.Event().wait()

    deaf, good = Deaf(), Unreliable()
    lineage = LineageService(sinks=[deaf, good], sink_timeout=0.01, seed=1)
    await lineage.add_node("agent:a", "agent", "A")
    async with asyncio.timeout(10):
        await lineage.close()
    assert lineage.stats()["sinks"][0]["lost"] == 1
    assert len(good.taken) == 1


async def test_a_sink_that_cannot_be_opened_is_fatal_and_the_others_are_closed():
    class Broken(Unreliable):
        async def open(self) -> None:
            raise LineageError("wrong address")

    memory = MemorySink()
    lineage = LineageService(sinks=[memory, Broken()])
    with pytest.raises(LineageError, match="wrong address"):
        await lineage.open()
    with pytest.raises(LineageError, match="not open"):
        await memory.write([LineageRecord("node", "a", "agent", 1.0)])
