"""kill -9 at any moment: no acknowledged event is lost, no event is out of order, and no position is ahead of the handlers."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest
from fault_worker import FAILPOINTS
from observed import Observed, judge

from dimesh_contracts.history.entries import Acknowledged, DeadLettered, Handled


def busy(observed: Observed) -> None:
    """Check that the run did something; otherwise it proves nothing."""
    history = observed.finish()
    counts = Counter(type(entry) for entry in history)
    assert counts[Acknowledged] > 20
    assert counts[Handled] > 20
    assert not judge(history)


QUICK = ("handler",)
"""The failpoint of the quick tests; the others run with the slow ones."""


@pytest.mark.parametrize(
    "point", [pytest.param(p, marks=() if p in QUICK else pytest.mark.slow) for p in FAILPOINTS]
)
def test_named_failpoints(observed: Observed, point: str) -> None:
    """The process dies exactly at the failpoint, early or later, while another process runs; then everything continues."""
    other = observed.start()
    for hits in (1, 7):
        seldom = point in ("join", "claim", "leave", "close", "checkpoint")
        name = observed.start(failpoint=point, hits=1 if seldom else hits)
        process = observed.workers[name]
        if point in ("leave", "close"):
            # Reached at a graceful stop (or when cleaning up after a process that was killed).
            wait_for(observed, name)
            process.terminate()
        process.join(60)
        assert process.exitcode == -9, f"{point} was not reached: {process.exitcode}"
        observed.join(name)
    wait_for(observed, other)
    observed.terminate(other)
    history = observed.finish()
    assert not judge(history)
    assert observed.crashes == 2
    assert any(isinstance(entry, DeadLettered) for entry in history) or len(history) < 400


def wait_for(observed: Observed, name: str, entries: int = 50) -> None:
    """Wait until the worker has written something, or has ended."""
    wanted = f'"process":"{name}"'.encode()
    deadline = time.monotonic() + 60
    while observed._data.count(wanted) < entries:
        if observed.workers[name].exitcode is not None:
            return
        assert time.monotonic() < deadline, f"{name} made no progress"
        time.sleep(0.005)


def kill_at_random(observed: Observed, times: int, seed: int) -> None:
    rng = random.Random(seed)
    running = [observed.start(), observed.start()]
    for _ in range(times):
        victim = rng.choice(running)
        running.remove(victim)
        if rng.random() < 0.6:
            # Otherwise a slow machine would kill every process while it starts.
            wait_for(observed, victim, 1)
        # The random moment is the subject of the test; the sleep waits for no condition.
        time.sleep(rng.uniform(0.005, 0.3))
        observed.kill(victim)
        consumes = rng.random() < 0.9
        running.append(observed.start(consumes=consumes, publishes=not consumes or rng.random() < 0.9))
    for name in running:
        wait_for(observed, name, 1)
        observed.terminate(name)
    busy(observed)


@pytest.mark.slow
def test_some_random_moments(observed: Observed) -> None:
    kill_at_random(observed, 8, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hundred_random_moments(observed: Observed) -> None:
    kill_at_random(observed, 200, seed=2)


@pytest.mark.slow
def test_sigterm_under_load_repeats_nothing(observed: Observed) -> None:
    """A process that gets SIGTERM finishes its events, and the next one continues: no event is handled twice."""
    publisher = observed.start(consumes=False, fails=False)
    for _ in range(4):
        name = observed.start(publishes=False, fails=False)
        wait_for(observed, name, 200)
        observed.terminate(name)
    observed.terminate(publisher)
    history = observed.finish(fails=False)
    assert not judge(history, repeats=0)
    handled = Counter(entry.id for entry in history if isinstance(entry, Handled))
    assert len(handled) > 200
    assert set(handled.values()) == {1}
