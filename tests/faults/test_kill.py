"""kill -9 at any moment: nothing that was acknowledged is lost, nothing is out of order, no position runs ahead."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest
from fault_worker import FAILPOINTS
from observed import Observed, judge

from dimesh_contracts.history.entries import Acknowledged, DeadLettered, Handled


def busy(observed: Observed) -> None:
    """The run did something: else it proves nothing."""
    history = observed.finish()
    counts = Counter(type(entry) for entry in history)
    assert counts[Acknowledged] > 20
    assert counts[Handled] > 20
    assert judge(history) == []


@pytest.mark.parametrize("point", FAILPOINTS)
def test_named_failpoints(observed: Observed, point: str) -> None:
    """The process dies exactly there, once early and once later, while another one lives; then all goes on."""
    other = observed.start()
    for hits in (1, 7):
        seldom = point in ("join", "claim", "leave", "close", "checkpoint")
        name = observed.start(failpoint=point, hits=1 if seldom else hits)
        process = observed.workers[name]
        if point in ("leave", "close"):
            # Reached when it ends in good order (or clears up behind one that did not).
            wait_for(observed, name)
            process.terminate()
        process.join(60)
        assert process.exitcode == -9, f"{point} was not reached: {process.exitcode}"
        observed.join(name)
    wait_for(observed, other)
    observed.terminate(other)
    history = observed.finish()
    assert judge(history) == []
    assert observed.crashes == 2
    assert any(isinstance(entry, DeadLettered) for entry in history) or len(history) < 400


def wait_for(observed: Observed, name: str, entries: int = 50) -> None:
    """Until the worker has written something down, or has ended."""
    wanted = f'"process":"{name}"'.encode()
    deadline = time.monotonic() + 60
    while observed._data.count(wanted) < entries:
        if observed.workers[name].exitcode is not None:
            return
        assert time.monotonic() < deadline, f"{name} does nothing"
        time.sleep(0.005)


def kill_at_random(observed: Observed, times: int, seed: int) -> None:
    rng = random.Random(seed)
    running = [observed.start(), observed.start()]
    for _ in range(times):
        time.sleep(rng.uniform(0.005, 0.3))  # the moment is what is tried; nothing waits for anything
        victim = rng.choice(running)
        running.remove(victim)
        observed.kill(victim)
        running.append(observed.start(consumes=rng.random() < 0.9, publishes=rng.random() < 0.9))
    for name in running:
        wait_for(observed, name, 1)
        observed.terminate(name)
    busy(observed)


def test_some_random_moments(observed: Observed) -> None:
    kill_at_random(observed, 8, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hundred_random_moments(observed: Observed) -> None:
    kill_at_random(observed, 200, seed=2)


def test_sigterm_under_load_repeats_nothing(observed: Observed) -> None:
    """A process that is asked to end finishes what it has, and the next one goes on: no event is handled twice."""
    publisher = observed.start(consumes=False, fails=False)
    for _ in range(4):
        name = observed.start(publishes=False, fails=False)
        wait_for(observed, name, 200)
        observed.terminate(name)
    observed.terminate(publisher)
    history = observed.finish(fails=False)
    assert judge(history, repeats=0) == []
    handled = Counter(entry.id for entry in history if isinstance(entry, Handled))
    assert len(handled) > 200
    assert set(handled.values()) == {1}
