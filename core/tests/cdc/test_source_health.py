"""The health of a captured object: what begins an outage, and what ends it."""

from __future__ import annotations

import logging

import pytest

from dimesh.cdc.health import SETTLED, ObjectHealth
from dimesh.clock import ManualClock
from dimesh.errors import PublishError, SourceUnavailableError


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def health(clock: ManualClock) -> ObjectHealth:
    found = ObjectHealth("billing", "customer", clock)
    found.reading = True
    return found


async def test_an_outage_is_logged_once_however_often_it_is_retried(
    health: ObjectHealth, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dimesh.cdc")
    began = clock.time()
    for n in range(5):
        health.missed(f"refused\n{n}")
        await clock.advance(1)
    health.failed(SourceUnavailableError("refused for good"))
    assert (health.since, health.error) == (began, "SourceUnavailableError: refused for good")
    health.reached()
    assert (health.error, health.last_error, health.since) == (
        "",
        "SourceUnavailableError: refused for good",
        began + 5,
    )
    assert [record.getMessage() for record in caplog.records] == [
        "source billing, object customer cannot be captured: refused 0",
        "source billing, object customer is captured again, after 5 s",
    ]


def test_an_answer_while_the_stream_is_not_open_does_not_end_an_outage_of_the_stream(
    health: ObjectHealth,
) -> None:
    health.failed(SourceUnavailableError("the stream cannot be opened"))
    health.reading = False
    health.reached()  # another part of the system, which describes objects, answers
    assert health.error
    health.reading = True
    health.reached()
    assert not health.error


async def test_an_answer_does_not_end_an_outage_of_ours(health: ObjectHealth, clock: ManualClock) -> None:
    health.failed(PublishError("the bus is full"))
    health.reached()
    health.settle()
    assert health.error
    health.captured()
    assert not health.error
    health.failed(PublishError("the bus is full"))
    await clock.advance(SETTLED)
    health.settle()
    assert not health.error


def test_an_error_shows_no_password_of_an_address(health: ObjectHealth) -> None:
    health.missed("https://user:hunter2@example.com/?token=hunter2 refused")
    assert "hunter2" not in health.error
