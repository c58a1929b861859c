"""Hypothesis strategies for events: ``st.from_type(Event)`` and ``st.from_type(EventMetadata)``."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from hypothesis import strategies as st

from dimesh.events import Event, EventMetadata, EventPriority, EventType
from dimesh.events.event import restore
from dimesh.events.fields import freeze_headers

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
w3c_trace = st.integers(1, 2**128 - 1).map("{:032x}".format)
w3c_span = st.integers(1, 2**64 - 1).map("{:016x}".format)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, 2**64, -(2**63) - 1, 2**200])
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
types = st.sampled_from([member.value for member in EventType]) | st.from_regex(
    r"\A[a-z][a-z0-9_-]{0,9}(\.[a-z0-9][a-z0-9_-]{0,9}){0,3}\Z"
)


@st.composite
def metadata(draw: st.DrawFn) -> EventMetadata:
    offset = timezone(timedelta(minutes=draw(st.integers(-720, 720))))
    first, last = datetime(2, 1, 1), datetime(9998, 12, 31)  # noqa: DTZ001 - the zone is put on below
    moment = st.datetimes(first, last, timezones=st.just(offset))
    optional = st.none() | text
    return EventMetadata(
        event_id=draw(text.filter(bool)),
        trace_id=draw(w3c_trace | text),
        span_id=draw(st.none() | w3c_span | text),
        parent_span_id=draw(optional),
        source_pillar=draw(text),
        source_agent=draw(text),
        target_pillar=draw(optional),
        target_agent=draw(optional),
        timestamp=draw(moment),
        priority=draw(st.sampled_from(EventPriority)),
        correlation_id=draw(optional),
        causation_id=draw(optional),
        tags=draw(st.dictionaries(text, text, max_size=4)),
    )


@st.composite
def events(draw: st.DrawFn) -> Event:
    headers = draw(st.dictionaries(text.filter(bool), text | st.binary(max_size=10), max_size=3))
    made = Event(draw(types), draw(metadata()), draw(json_values), draw(text.filter(bool)), headers=headers)
    if draw(st.booleans()):
        return made
    # As from elsewhere: any bytes under any media type.
    data = draw(
        st.binary(max_size=40) | st.sampled_from([b"", b"null", b' {"a" : 1} ', b'{"a":1,"a":2}', b"1e400"])
    )
    media = draw(st.sampled_from(["application/json", "text/plain", "application/avro+json", "image/png"]))
    return restore(
        made.event_type.value, made.metadata, data, made.schema_version, media, freeze_headers(headers)
    )


st.register_type_strategy(EventMetadata, metadata())
st.register_type_strategy(Event, events())
