"""The log on disk: crashes, damage, locks, retention, full disks."""

from __future__ import annotations

import json
import resource
import struct
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dimesh.backends.lineage.segments import SegmentLog
from dimesh.clock import ManualClock
from dimesh.errors import LineageError, StorageError
from dimesh.lineage import LineageQuery, LineageService
from dimesh.spi.lineage import LineageRecord

MIB = 1024 * 1024


def record(number: int, at: float | None = None, **fields) -> LineageRecord:
    at = float(number) if at is None else at
    return LineageRecord("edge", f"e{number}", "invokes", at, source="a", target="b", **fields)


def opened(folder: Path, **options) -> SegmentLog:
    log = SegmentLog(folder, options.pop("segment_bytes", MIB), **options)
    log.open()
    return log


def read(folder: Path) -> list[LineageRecord]:
    return [r for batch in SegmentLog(folder, MIB, read_only=True).read() for r in batch]


def written(folder: Path, records: list[LineageRecord], **options) -> Path:
    log = opened(folder, **options)
    log.append(records, sync=False)
    log.close()
    return max(folder.glob("*.lineage"))


metadata = st.dictionaries(
    st.text(max_size=5),
    st.recursive(st.none() | st.integers(-(2**63), 2**63) | st.text(), st.lists, max_leaves=5),
)


@settings(max_examples=30, deadline=None)
@given(details=st.lists(metadata, min_size=1, max_size=5))
@pytest.mark.slow
def test_a_write_cut_short_anywhere_loses_only_the_last_record(tmp_path_factory, details):
    folder = tmp_path_factory.mktemp("log")
    records = [record(number, metadata=item) for number, item in enumerate(details)]
    segment = written(folder, records[:-1]) if len(records) > 1 else written(folder, [])
    whole = segment.stat().st_size
    written(folder, records[-1:])
    data = segment.read_bytes()
    for cut in range(whole, len(data)):
        segment.write_bytes(data[:cut])
        log = opened(folder)
        assert log.torn_bytes == cut - whole
        assert [r for batch in log.read() for r in batch] == records[:-1]
        log.append(records[-1:], sync=True)  # and the log goes on
        log.close()
        assert read(folder) == records


def test_a_tail_of_zeros_after_a_power_cut_is_an_unfinished_write(tmp_path):
    records = [record(number, metadata={"text": "x" * 300}) for number in range(6)]
    segment = written(tmp_path, records)
    data = segment.read_bytes()
    sector = len(data) // 512 * 512
    segment.write_bytes(data[:sector] + bytes(len(data) - sector))
    log = opened(tmp_path)
    assert log.torn_bytes > 0
    log.close()
    kept = read(tmp_path)
    assert kept == records[: len(kept)]
    assert len(kept) >= 4


@pytest.mark.parametrize("size", [0, 1, 15])
def test_a_segment_with_a_truncated_header_is_started_again(tmp_path, size):
    segment = written(tmp_path, [])
    for left in (segment.read_bytes()[:size], bytes(size)):
        segment.write_bytes(left)
        written(tmp_path, [record(1)])
        assert read(tmp_path) == [record(1)]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
@pytest.mark.slow
def test_a_flipped_bit_costs_at_most_its_record(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("log")
    records = [record(number, metadata={"n": number}) for number in range(4)]
    segment = written(folder, records)
    content = bytearray(segment.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    segment.write_bytes(content)
    log = opened(folder)
    kept = [r for batch in log.read() for r in batch]
    assert [r for r in records if r in kept] == kept
    lost = [r for r in records if r not in kept]
    assert len(lost) == (0 if place < 16 else 1)
    ((name, offset), size), *others = log.damage.items()
    assert not others
    assert name == segment.name
    assert offset <= place < offset + size
    log.append([record(9)], sync=False)
    assert [r for batch in log.read() for r in batch] == [*kept, record(9)]
    log.close()
    # Nothing was repaired away.
    assert segment.read_bytes()[: len(content)] == content


@pytest.mark.parametrize("zeros", [False, True])
def test_damage_of_a_whole_area_is_skipped_to_the_next_record(tmp_path, zeros):
    records = [record(number, metadata={"text": f"{number}" * 200}) for number in range(30)]
    segment = written(tmp_path, records)
    content = bytearray(segment.read_bytes())
    content[1_000:3_000] = bytes(2_000) if zeros else b"\xa5" * 2_000
    segment.write_bytes(content)
    log = SegmentLog(tmp_path, MIB, read_only=True)
    kept = [r for batch in log.read() for r in batch]
    assert 15 < len(kept) < 30
    assert [r for r in records if r in kept] == kept
    assert kept[-1] == records[-1]
    assert 2_000 <= sum(log.damage.values()) < 3_000


def test_a_truncated_closed_segment_costs_its_last_record(tmp_path):
    first = written(tmp_path, [record(0), record(1)], segment_bytes=16)
    log = opened(tmp_path, segment_bytes=16)
    log.append([record(2)], sync=False)
    log.close()
    assert len(list(tmp_path.glob("*.lineage"))) == 2
    first.write_bytes(first.read_bytes()[:-1])
    assert read(tmp_path) == [record(0), record(2)]


async def test_answers_over_a_damaged_log_say_so(tmp_path, caplog):
    async with LineageService(path=tmp_path) as lineage:
        for number in range(20):
            await lineage.add_edge("agent:a", f"data:{number}", "writes_to", "t")
    (segment,) = tmp_path.glob("*.lineage")
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 4
    segment.write_bytes(content)
    async with LineageService(path=tmp_path) as lineage:
        answer = await lineage.query_lineage(LineageQuery(node_id="agent:a"))
        impact = await lineage.find_impact("agent:a")
    assert len(answer["edges"]) == 19
    for found in (answer, impact):
        assert found["partial"]
        assert "bytes of the log are damaged" in found["reason"]
    assert impact["risk_level"] != "low"
    assert segment.name in caplog.text


def test_a_newer_format_is_refused(tmp_path):
    segment = written(tmp_path, [record(1)])
    start = b"dimeshLG" + struct.pack(">I", 2)
    segment.write_bytes(start + struct.pack(">I", crc32(start)) + segment.read_bytes()[16:])
    with pytest.raises(StorageError, match="update dimesh"):
        opened(tmp_path)


def test_one_writer_many_readers(tmp_path):
    log = opened(tmp_path)
    log.append([record(1)], sync=False)
    with pytest.raises(StorageError, match="in use by another"):
        opened(tmp_path)
    code = (
        "import sys, pathlib\n"
        "from dimesh.backends.lineage.segments import SegmentLog\n"
        "log = SegmentLog(pathlib.Path(sys.argv[1]), 1 << 20)\n"
        "try: log.open()\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == "StorageError"
    assert read(tmp_path) == [record(1)]
    reader = opened(tmp_path, read_only=True)
    with pytest.raises(LineageError, match="read_only"):
        reader.append([record(2)], sync=False)
    reader.close()
    log.close()
    opened(tmp_path).close()


def test_a_reader_is_not_disturbed_by_a_write_in_progress(tmp_path):
    segment = written(tmp_path, [record(1), record(2)])
    data = segment.read_bytes()
    segment.write_bytes(data[:-3])
    assert read(tmp_path) == [record(1)]
    assert segment.read_bytes() == data[:-3]


def test_retention_drops_old_segments_and_rewrites_mixed_ones(tmp_path):
    log = opened(tmp_path, segment_bytes=300)
    for number in range(40):
        log.append([record(number)], sync=False)
    before = {path.name: path.stat().st_ino for path in tmp_path.glob("*.lineage")}
    assert log.forget(20.0) == 20
    after = {path.name: path.stat().st_ino for path in tmp_path.glob("*.lineage")}
    assert "000000000001.lineage" not in after
    assert any(before.get(name) == inode for name, inode in after.items()), "newer segments are not touched"
    assert log.forget(20.0) == 0
    log.append([record(40)], sync=False)
    log.close()
    assert [r.id for r in read(tmp_path)] == [f"e{n}" for n in range(20, 41)]


def test_a_full_disk_loses_and_damages_nothing(tmp_path):
    log = opened(tmp_path)
    log.append([record(1)], sync=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))
    try:
        with pytest.raises(StorageError):
            log.append([record(2, metadata={"text": "x" * 5_000})], sync=False)
        log.append([record(3)], sync=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.append([record(2)], sync=False)
    log.close()
    assert [r.id for r in read(tmp_path)] == ["e1", "e3", "e2"]


def test_a_folder_that_cannot_be_one_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        opened(tmp_path / "file")
    with pytest.raises(StorageError, match="no lineage log"):
        opened(tmp_path / "nothing", read_only=True)


# -- the service over the log ------------------------------------------------------------------------


async def test_the_graph_survives_a_restart(tmp_path):
    async with LineageService(path=tmp_path) as lineage:
        await lineage.add_node("agent:a", "agent", "The Agent", "Growth", {"team": 7})
        await lineage.track_tool_invocation("agent:a", "mail", "t1", {"to": 3}, {"sent": 3}, "Growth")
        await lineage.track_decision("agent:a", "d1", "t1", "refund", "approved", ["small"])
        first = lineage.export_graph("json")
    async with LineageService(path=tmp_path) as lineage:
        assert json.loads(lineage.export_graph("json")) == json.loads(first)
        assert len(await lineage.get_trace_timeline("t1")) == 2
        with pytest.raises(StorageError, match="in use"):
            await LineageService(path=tmp_path).open()
        async with LineageService(path=tmp_path, read_only=True) as reader:
            assert json.loads(reader.export_graph()) == json.loads(first)
            with pytest.raises(LineageError, match="read_only"):
                await reader.add_node("agent:b", "agent", "B")


async def test_a_killed_process_loses_nothing_that_was_flushed(tmp_path):
    code = (
        "import asyncio, os, sys\n"
        "from dimesh.lineage import LineageService\n"
        "async def main():\n"
        "    lineage = LineageService(path=sys.argv[1])\n"
        "    for n in range(500):\n"
        "        await lineage.add_edge(f'agent:{n}', 'tool:t', 'invokes', 'trace')\n"
        "    await lineage.flush()\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert ended.returncode == -9
    async with LineageService(path=tmp_path) as lineage:
        assert lineage.stats()["edges"] == 500


async def test_pruning_survives_a_restart_and_keeps_the_names_of_live_nodes(tmp_path):
    clock = ManualClock()
    lineage = LineageService(path=tmp_path, clock=clock)
    await lineage.add_node("agent:a", "agent", "The Agent", "Growth")
    await lineage.add_node("agent:gone", "agent", "Gone")
    await lineage.add_edge("agent:gone", "data:old", "writes_to", "t-old")
    await clock.advance(40 * 86_400)
    await lineage.add_edge("agent:a", "data:new", "writes_to", "t-new")
    assert await lineage.prune_old_data(days=30) == 3
    expected = lineage.export_graph()
    await lineage.close()
    async with LineageService(path=tmp_path, clock=clock) as again:
        assert json.loads(again.export_graph()) == json.loads(expected)
        result = await again.query_lineage(LineageQuery())
        assert {node["name"] for node in result["nodes"]} == {"The Agent", "new"}
        assert b"Gone" not in b"".join(path.read_bytes() for path in tmp_path.glob("*.lineage"))


async def test_a_log_that_fails_fills_the_queue_and_recovers(tmp_path):
    clock = ManualClock()
    lineage = LineageService(path=tmp_path, clock=clock, capacity=5, patience=0.5)
    await lineage.open()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        for number in range(5):
            await lineage.add_node(f"agent:{number}", "agent", "x" * 100)
        with pytest.raises(LineageError, match="cannot be written"):
            await lineage.flush()
        # Queries still see everything.
        assert len((await lineage.query_lineage(LineageQuery()))["nodes"]) == 5
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await lineage.close()
    async with LineageService(path=tmp_path) as again:
        assert again.stats()["nodes"] == 5
