"""What every lineage sink must satisfy.

Subclass :class:`LineageSinkContract` in a test module and give it a ``new_sink`` fixture::

    class TestMySink(LineageSinkContract):
        @pytest.fixture
        def new_sink(self, tmp_path):
            return lambda: MySink(tmp_path)
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import pytest

from dimesh.capabilities import Capability
from dimesh.errors import LineageError, StorageError
from dimesh.spi.lineage import LineageRecord, LineageSink

NewSink = Callable[[], LineageSink]
NASTY = ('quote " and \\', "line\nend", "\x00\x1f", "🙂 ﷽", "../..", "x" * 1_000)


def node(number: int, at: float, name: str = "") -> LineageRecord:
    """A node record with an id of its own."""
    return LineageRecord("node", f"agent:{uuid4().hex}-{number}", "agent", at, name=name, pillar="Growth")


def edge(number: int, at: float) -> LineageRecord:
    """An edge record with an id of its own."""
    return LineageRecord(
        "edge",
        f"{uuid4().hex}-{number}",
        "invokes",
        at,
        source="agent:a",
        target="tool:t",
        trace_id="trace",
        metadata={"count": number, "nested": {"list": [1, 2.5, None, "text", True]}},
    )


class LineageSinkContract:
    """Tests that any sink passes; those about reading back are skipped where a sink does not state it."""

    @pytest.fixture
    def new_sink(self) -> NewSink:
        """Makes a sink, not opened. Called again it makes one over the same storage, as after a restart; a
        sink that keeps nothing beyond its instance returns that instance.
        """
        raise NotImplementedError("give your test class a new_sink fixture")

    async def test_takes_records_and_closes_twice(self, new_sink: NewSink) -> None:
        """``open``, ``write`` and ``close`` work, and ``close`` again does nothing."""
        sink = new_sink()
        await sink.open()
        await sink.write([node(1, 1.0), edge(2, 2.0)])
        await sink.write([])
        assert isinstance(dict(sink.stats()), dict)
        await sink.close()
        await sink.close()

    async def test_writing_when_not_open_is_an_error_of_the_spi(self, new_sink: NewSink) -> None:
        """The service counts on these types: any other stops nothing, but reads like a bug of the sink."""
        with pytest.raises((LineageError, StorageError)):
            await new_sink().write([edge(1, 1.0)])

    async def test_every_name_survives(self, new_sink: NewSink) -> None:
        """Names are hostile: control characters, quotes, emoji, long ones."""
        sink = new_sink()
        await sink.open()
        written = [node(number, 1.0, name) for number, name in enumerate(NASTY)]
        await sink.write(written)
        if Capability.READ_BACK in sink.capabilities:
            assert [r async for batch in sink.read() for r in batch] == written
        await sink.close()

    async def test_reads_back_everything_in_order(self, new_sink: NewSink) -> None:
        """With ``READ_BACK`` what was written comes back equal, oldest first, also when it is opened again."""
        sink = new_sink()
        if Capability.READ_BACK not in sink.capabilities:
            pytest.skip("the sink does not state read-back")
        await sink.open()
        written = [edge(number, float(number)) for number in range(2_500)]
        await sink.write(written[:1])
        await sink.write(written[1:])
        assert [r async for batch in sink.read() for r in batch] == written
        await sink.close()
        again = new_sink()
        await again.open()
        assert [r async for batch in again.read() for r in batch] == written
        await again.close()

    async def test_the_same_record_twice_is_no_error(self, new_sink: NewSink) -> None:
        """The service repeats what it is not sure of."""
        sink = new_sink()
        await sink.open()
        record = edge(1, 1.0)
        await sink.write([record])
        await sink.write([record])
        if Capability.READ_BACK in sink.capabilities:
            assert {r.id async for batch in sink.read() for r in batch} == {record.id}
        await sink.close()

    async def test_forgets_what_is_older(self, new_sink: NewSink) -> None:
        """``forget`` removes records from before that time and no others; what it counted is gone for good."""
        sink = new_sink()
        await sink.open()
        written = [edge(number, float(number)) for number in range(10)]
        await sink.write(written)
        gone = await sink.forget(4.0)
        assert 0 <= gone <= 4
        if Capability.READ_BACK in sink.capabilities:
            assert gone == 4
            assert [r async for batch in sink.read() for r in batch] == written[4:]
            await sink.write([edge(99, 99.0)])
            assert len([r async for batch in sink.read() for r in batch]) == 7
        assert await sink.forget(0.0) == 0
        await sink.close()
