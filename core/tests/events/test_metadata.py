from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum

import msgspec
import pytest

from dimesh.errors import EventError
from dimesh.events import Event, EventMetadata, EventPriority
from dimesh.events.codec import encode_header
from dimesh.events.event import decode_event
from dimesh.events.ids import new_event_id, new_span_id, new_trace_id


class Pillar(str, Enum):
    GROWTH = "Growth Engine"


class Text(str):
    __slots__ = ()


NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - it has to be refused


class Moment(datetime):
    pass


def test_defaults() -> None:
    before = datetime.now(UTC)
    metadata = EventMetadata()
    assert before <= metadata.timestamp <= datetime.now(UTC)
    assert metadata.priority is EventPriority.NORMAL
    assert metadata.tags == {}
    assert metadata.ordering_key == ":"
    assert metadata.event_id != EventMetadata().event_id
    assert metadata.trace_id != EventMetadata().trace_id


def test_event_ids_are_uuid7_in_order_of_time() -> None:
    ids = [new_event_id(lambda ms=ms: ms * 1_000_000) for ms in (0, 1, 65_535, 65_536, 2**47)]
    assert ids == sorted(ids)
    assert all(len(i) == 36 and i[14] == "7" and i[19] in "89ab" for i in ids)
    assert len({new_event_id() for _ in range(10_000)}) == 10_000


def test_trace_and_span_ids_are_w3c() -> None:
    assert len(new_trace_id()) == 32
    assert len(new_span_id()) == 16
    int(new_trace_id() + new_span_id(), 16)


def test_metadata_is_immutable() -> None:
    tags = {"a": "b"}
    metadata = EventMetadata(tags=tags)
    tags["a"] = "changed"
    assert metadata.tags == {"a": "b"}
    with pytest.raises(AttributeError):
        metadata.priority = EventPriority.HIGH  # type: ignore[misc]
    for change in (
        lambda: metadata.tags.update(a="c"),
        lambda: metadata.tags.__setitem__("a", "c"),
        lambda: metadata.tags.pop("a"),
        lambda: metadata.tags.clear(),
        lambda: metadata.tags.setdefault("x", "y"),
    ):
        with pytest.raises(TypeError, match="immutable"):
            change()
    with pytest.raises(TypeError, match="immutable"):
        metadata.tags |= {"x": "y"}  # type: ignore[misc]
    assert metadata.tags == {"a": "b"}
    decoded = decode_event(encode_header(Event("custom", metadata)), b"null").metadata
    with pytest.raises(TypeError, match="immutable"):
        decoded.tags["a"] = "c"


def test_copies_are_equal_and_hashable() -> None:
    metadata = EventMetadata(tags={"a": "b"}, source_pillar="x")
    for same in (copy.copy(metadata), copy.deepcopy(metadata), pickle.loads(pickle.dumps(metadata))):
        assert same == metadata
        assert hash(same) == hash(metadata)
    assert {metadata: 1}[copy.deepcopy(metadata)] == 1


def test_replace_checks_too() -> None:
    metadata = EventMetadata()
    assert msgspec.structs.replace(metadata, priority="high").priority is EventPriority.HIGH
    with pytest.raises(EventError, match="time zone"):
        msgspec.structs.replace(metadata, timestamp=NAIVE)


def test_times_become_utc() -> None:
    local = datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert EventMetadata(timestamp=local).timestamp == local
    assert EventMetadata(timestamp=local).timestamp.isoformat() == "2025-12-31T23:30:00+00:00"
    subclass = EventMetadata(timestamp=Moment(2026, 1, 1, tzinfo=UTC))
    assert type(subclass.timestamp) is datetime
    assert Event.from_json(Event("custom", subclass).to_json()).metadata == subclass


def test_string_subclasses_become_their_text() -> None:
    metadata = EventMetadata(
        event_id=Text("id"),
        source_pillar=Pillar.GROWTH,
        source_agent=Text("bot"),
        target_agent=Text("cs"),
        tags={Text("k"): Text("v"), "p": Pillar.GROWTH},
    )
    assert metadata.ordering_key == "Growth Engine:bot"
    event = Event("custom", metadata)
    assert decode_event(encode_header(event), event.data) == event
    assert Event.from_json(event.to_json()) == event


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"event_id": ""}, "event_id is empty"),
        ({"event_id": None}, "event_id None is NoneType"),
        ({"event_id": 3}, "event_id 3 is int"),
        ({"source_pillar": None}, "source_pillar"),
        ({"source_agent": b"x"}, "bytes"),
        ({"span_id": 0}, "span_id 0 is int"),
        ({"target_agent": ["x"]}, "list"),
        ({"correlation_id": "x" * 1_025}, "longer than 1,024"),
        ({"trace_id": "\ud800"}, "lone surrogate"),
        ({"timestamp": NAIVE}, "time zone"),
        ({"timestamp": "2026-01-01"}, "str"),
        ({"timestamp": None}, "NoneType"),
        ({"timestamp": datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))}, "years 1 to 9999"),
        ({"priority": "urgent"}, "low, normal, high, critical"),
        ({"priority": None}, "priority"),
        ({"priority": []}, "priority"),
        ({"tags": None}, "dict of strings"),
        ({"tags": [("a", "b")]}, "dict of strings"),
        ({"tags": "ab"}, "dict of strings"),
        ({"tags": {"a": 1}}, "tag value 1 is int"),
        ({"tags": {1: "a"}}, "tag name 1 is int"),
        ({"tags": {"a": None}}, "tag value"),
        ({"tags": {"a": "x" * 1_025}}, "longer than 1,024"),
        ({"tags": {"\ud800": "x"}}, "lone surrogate"),
        ({"tags": {str(n): "" for n in range(101)}}, "can have 100 tags at most"),
    ],
)
def test_invalid_fields_are_refused(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(EventError, match=reason) as caught:
        EventMetadata(**fields)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 300


def test_limits_are_per_field() -> None:
    long = "é" * 1_024
    metadata = EventMetadata(source_pillar=long, target_pillar=long, tags={long: long, "b": long})
    assert metadata.source_pillar == long
    assert metadata.tags[long] == long
    assert len(EventMetadata(tags={str(n): "" for n in range(100)}).tags) == 100
