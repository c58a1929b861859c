"""What every lineage sink must satisfy::

class TestMine(LineageSinkContract):
offers = {Capability.READ_BACK, Capability.DURABLE}

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
from dimesh_contracts.contract import Contract, Guarantee, proves

NewSink = Callable[[], LineageSink]
NASTY = ('quote " and \\', "line\nend", "\x00\x1f", "🙂 ﷽", "../..", "x" * 1_000)


def node(number: int, at: float, name: str = "") -> LineageRecord:
    """Return a node record with a new id."""
    return LineageRecord("node", f"agent:{uuid4().hex}-{number}", "agent", at, name=name, pillar="Growth")


def edge(number: int, at: float) -> LineageRecord:
    """Return an edge record with a new id."""
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


class LineageGuarantee(Guarantee):
    """Promises of a lineage sink."""

    STATED = "A sink states exactly the capabilities that it has."
    LIFE = "A sink opens, accepts records, and closes repeatedly; what it cannot do is an error of the SPI."
    UNCHANGED = "A record is kept as it was given: every name, number and nested value of it."
    READ_BACK = "What was written is read back complete, oldest first."
    DURABLE = "What was written is available to another instance over the same storage."
    IDEMPOTENT = "The same record again is the same fact, and no error."
    FORGET = "Forgetting removes what is older than the given time, and nothing else."


G = LineageGuarantee


class LineageSinkContract(Contract):
    """Tests that every sink passes; those about reading back are "not offered" for a sink that does not state it."""

    @pytest.fixture
    def new_sink(self) -> NewSink:
        """Return a function that makes a sink which is not open. Called again it makes one over the same storage, as after a
        restart; a sink that stores nothing beyond its instance returns that instance.
        """
        raise NotImplementedError("give your test class a new_sink fixture")

    @proves(G.STATED)
    async def test_states_what_it_offers(self, new_sink: NewSink) -> None:
        """The test class names the capabilities that the sink states. Usually wrong: a capability was added on one side
        only.
        """
        sink = new_sink()
        self.check_offers(sink.capabilities)
        assert sink.name

    @proves(G.LIFE)
    async def test_takes_records_and_closes_twice(self, new_sink: NewSink) -> None:
        """``open``, ``write`` and ``close`` work, and a second ``close`` does nothing. Usually wrong: an error from a file
        that is closed already.
        """
        sink = new_sink()
        await sink.open()
        await sink.write([node(1, 1.0), edge(2, 2.0)])
        await sink.write([])
        assert isinstance(dict(sink.stats()), dict)
        await sink.close()
        await sink.close()

    @proves(G.LIFE)
    async def test_writing_when_not_open_is_an_error_of_the_spi(self, new_sink: NewSink) -> None:
        """The service relies on these types: any other error is reported as a defect of the sink. Usually wrong: an
        AttributeError of a client that does not exist yet.
        """
        with pytest.raises((LineageError, StorageError)):
            await new_sink().write([edge(1, 1.0)])

    @proves(G.UNCHANGED, Capability.READ_BACK)
    async def test_every_name_survives(self, new_sink: NewSink) -> None:
        """Names are hostile: control characters, quotes, emoji, long ones. Usually wrong: lines are cut at a character that
        only looks like a line end; text is escaped once and unescaped twice.
        """
        sink = new_sink()
        await sink.open()
        written = [node(number, 1.0, name) for number, name in enumerate(NASTY)]
        await sink.write(written)
        assert [r async for batch in sink.read() for r in batch] == written
        await sink.close()

    @proves(G.READ_BACK, Capability.READ_BACK)
    async def test_reads_back_everything_in_order(self, new_sink: NewSink) -> None:
        """Several writes of more than a page are read back. Usually wrong: a buffer that is not written yet; batches in
        another order.
        """
        sink = new_sink()
        await sink.open()
        written = [edge(number, float(number)) for number in range(2_500)]
        await sink.write(written[:1])
        await sink.write(written[1:2_499])
        await sink.write(written[2_499:])
        assert [r async for batch in sink.read() for r in batch] == written
        await sink.close()

    @proves(G.DURABLE, Capability.READ_BACK, Capability.DURABLE)
    async def test_records_survive(self, new_sink: NewSink) -> None:
        """A sink that is opened again reads back what was written, and appends to it. Usually wrong: it overwrites old
        records.
        """
        sink = new_sink()
        await sink.open()
        written = [edge(number, float(number)) for number in range(300)]
        await sink.write(written[:200])
        await sink.close()
        again = new_sink()
        await again.open()
        assert [r async for batch in again.read() for r in batch] == written[:200]
        await again.write(written[200:])
        await again.close()
        last = new_sink()
        await last.open()
        assert [r async for batch in last.read() for r in batch] == written
        await last.close()

    @proves(G.IDEMPOTENT)
    async def test_the_same_record_twice_is_no_error(self, new_sink: NewSink) -> None:
        """The service repeats a write whose outcome it does not know. Usually wrong: a unique index that raises."""
        sink = new_sink()
        await sink.open()
        record = edge(1, 1.0)
        await sink.write([record])
        await sink.write([record])
        if Capability.READ_BACK in sink.capabilities:
            assert {r.id async for batch in sink.read() for r in batch} == {record.id}
        await sink.close()

    @proves(G.FORGET)
    async def test_forgets_what_is_older(self, new_sink: NewSink) -> None:
        """``forget`` removes the records before a time and no others; the number that it returns is removed for good.
        Usually wrong: whole files are removed although they hold younger records.
        """
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
