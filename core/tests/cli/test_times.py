from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dimesh.cli.times import ago, duration_text, parse_since
from dimesh.errors import ConfigurationError

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("15m", timedelta(minutes=15)),
        ("1.5h", timedelta(hours=1.5)),
        ("250ms", timedelta(milliseconds=250)),
        ("10 minutes ago", timedelta(minutes=10)),
        ("1 minute ago", timedelta(minutes=1)),
        (" 2  Hours  Ago ", timedelta(hours=2)),
        ("2h ago", timedelta(hours=2)),
        ("an hour ago", timedelta(hours=1)),
        ("a week", timedelta(days=7)),
        ("90 sec", timedelta(seconds=90)),
        ("now", timedelta()),
        ("today", timedelta(hours=12, minutes=30)),
        ("Yesterday", timedelta(hours=36, minutes=30)),
        ("2026-03-01", timedelta(hours=12, minutes=30)),
        ("2026-03-01T13:00:00+01:00", timedelta(minutes=30)),
    ],
)
def test_times_that_people_say(text: str, ago: timedelta) -> None:
    assert NOW - parse_since(text, NOW) == ago


@pytest.mark.parametrize(
    "text", ["", "ago", "ten minutes", "10", "-1h", "1 month ago", "ah", "9" * 400 + "w", "١٢m", "x\n"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"is not a time: write .* '10 minutes ago', yesterday"
    ) as error:
        parse_since(text, NOW)
    assert str(error.value).isprintable()


def test_durations_and_times_as_people_say_them() -> None:
    assert [duration_text(s) for s in (-1, 0.0071, 0.9996, 2.34, 59.97, 125, 3_600, 90_061, 1e6)] == [
        "0 ms",
        "7 ms",
        "1.0 s",
        "2.3 s",
        "1 min",
        "2 min 5 s",
        "1 h",
        "1 d 1 h",
        "11 d 13 h",
    ]
    passed = (0.5, 1, 61, 7_200, 172_800, -3_601)
    assert [ago(NOW - timedelta(seconds=s), NOW) for s in passed] == [
        "just now",
        "1 second ago",
        "1 minute ago",
        "2 hours ago",
        "2 days ago",
        "in 1 hour",
    ]
