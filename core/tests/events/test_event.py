from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimesh.errors import EventError, PayloadError
from dimesh.events import Event, EventMetadata, EventType, fields
from dimesh.events.event import restore


def test_signature_of_the_public_api() -> None:
    metadata = EventMetadata()
    event = Event(EventType.DEAL_WON, metadata, {"amount": 3}, "2.0.0")
    assert event.event_type is EventType.DEAL_WON
    assert event.metadata is metadata
    assert event.event_id == metadata.event_id
    assert event.payload == {"amount": 3}
    assert event.schema_version == "2.0.0"
    assert Event(event_type="custom", metadata=metadata, payload=None, schema_version="1.0.0").payload is None


def test_events_are_immutable() -> None:
    payload = {"list": [1]}
    event = Event("custom", payload=payload, headers={"a": "b"})
    payload["list"].append(2)
    event.payload["list"].append(3)
    assert event.payload == {"list": [1]}
    for name in ("data", "metadata", "headers", "event_type", "payload", "anything"):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(event, name, None)
    with pytest.raises(AttributeError, match="immutable"):
        del event.data
    with pytest.raises(TypeError):
        event.headers["a"] = "c"  # type: ignore[index]


@given(st.from_type(Event))
def test_copies_are_equal_and_immutable(event: Event) -> None:
    for same in (copy.copy(event), copy.deepcopy(event), pickle.loads(pickle.dumps(event))):
        assert same == event
        assert hash(same) == hash(event)
        with pytest.raises(TypeError):
            same.headers["new"] = "x"  # type: ignore[index]


def test_replace_keeps_the_rest() -> None:
    event = Event("custom", payload=[1], headers={"a": b"\xff"})
    other = EventMetadata(source_agent="x")
    assert event.replace(metadata=other).metadata is other
    assert event.replace(metadata=other).headers == {"a": b"\xff"}
    assert event.replace(headers={}).headers == {}
    assert event.replace(headers={}).payload == [1]
    assert event.replace() == event


def test_events_differ_in_every_part() -> None:
    metadata = EventMetadata()
    event = Event("custom", metadata, 1)
    assert event == Event("custom", metadata, 1)
    assert event != Event("deal.won", metadata, 1)
    assert event != Event("custom", EventMetadata(), 1)
    assert event != Event("custom", metadata, 2)
    assert event != Event("custom", metadata, 1, "2")
    assert event != Event("custom", metadata, 1, headers={"a": "b"})
    assert event != "custom"


def test_repr_does_not_show_the_payload() -> None:
    assert "secret" not in repr(Event("custom", payload={"password": "secret"}))


def test_payload_of_another_media_type_is_raw() -> None:
    event = restore("custom", EventMetadata(), b"\x89PNG", content_type="image/png")
    assert event.data == b"\x89PNG"
    with pytest.raises(PayloadError, match=r"image/png.*event\.data"):
        _ = event.payload
    for media in (
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/cloudevents+json",
        "text/json",
    ):
        assert restore("custom", EventMetadata(), b"[1]", content_type=media).payload == [1]


def test_missing_payloads_and_payloads_that_are_not_json() -> None:
    assert restore("custom", EventMetadata(), b"").payload is None
    with pytest.raises(PayloadError, match="not JSON"):
        _ = restore("custom", EventMetadata(), b"{oops").payload


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"metadata": {}}, "must be an EventMetadata, not dict"),
        ({"schema_version": ""}, "schema_version is empty"),
        ({"schema_version": 1}, "schema_version 1 is int"),
        ({"schema_version": "x" * 65}, "longer than 64"),
        ({"schema_version": "\ud800"}, "lone surrogate"),
        ({"headers": {"": "x"}}, "empty name"),
        ({"headers": {"a": 1}}, "is int"),
        ({"headers": {1: "a"}}, "header name 1 is int"),
        ({"headers": {"a": "\ud800"}}, "lone surrogate"),
        ({"headers": {"\ud800": "a"}}, "lone surrogate"),
        ({"headers": {"x" * 1_025: "a"}}, "longer than 1,024"),
        ({"headers": [("a", "b")]}, "headers must be a dict .*, not list"),
    ],
)
def test_invalid_arguments_are_refused(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(EventError, match=reason):
        Event("custom", **arguments)


def test_a_payload_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "MAX_PAYLOAD", 1_000)
    Event("custom", payload="x" * 998)
    with pytest.raises(PayloadError, match=r"1,001 bytes.*store it elsewhere"):
        Event("custom", payload="x" * 999)
    text = Event("custom", payload="x" * 998).to_json().replace("x" * 998, "x" * 999)
    with pytest.raises(PayloadError, match="1,001 bytes"):
        Event.from_json(text)


def test_a_payload_of_10_mb_passes() -> None:
    event = Event("custom", payload={"blob": "x" * 10_000_000})
    assert Event.from_json(event.to_json()) == event


def test_error_messages_are_short_for_long_input() -> None:
    with pytest.raises(EventError, match="unknown field") as caught:
        Event.from_json(json.dumps({"event_type": "custom", "x" * 1_000_000: 1}))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("payload", [{10**5_000: 1}, 10**5_000], ids=["key", "value"])
def test_values_without_a_usable_repr_are_refused(payload: object) -> None:
    with pytest.raises(PayloadError):
        Event("custom", None, payload)
    with pytest.raises(EventError, match="event type"):
        Event(payload)  # type: ignore[arg-type]
