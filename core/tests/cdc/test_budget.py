"""Requests of an account: one process, and several that share a ledger."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from dimesh.clock import ManualClock, SystemClock
from dimesh.spi.budget import Budget, Ledger, Urgency

Ledgers = Callable[[str], Ledger]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledgers]:
    with ExitStack() as stack:
        yield lambda account: stack.enter_context(closing(Ledger(tmp_path / "b.db", account)))


TAKES = """
import asyncio, sys, time
from dimesh.clock import SystemClock
from dimesh.spi.budget import Budget, Ledger, Urgency

async def main(path, count):
    budget = Budget(50.0, SystemClock(), ledger=Ledger(path, "account"))
    for _ in range(count):
        await budget.take(Urgency.STREAM)
        print(time.time(), flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def test_two_processes_take_no_more_than_one_may(tmp_path: Path) -> None:
    count = 75
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TAKES, str(tmp_path / "budget.db"), str(count)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    each = [[float(line) for line in process.communicate(timeout=60)[0].split()] for process in processes]
    assert [len(taken) for taken in each] == [count, count]
    both = sorted(moment for taken in each for moment in taken)
    for n, began in enumerate(both):
        within = sum(moment < began + 1.0 for moment in both[n:])
        assert within <= 50 + 5 + 3, (
            f"{within} requests within a second"
        )  # the burst; and printing takes its time


async def test_what_one_process_is_told_holds_for_the_other(ledger: Ledgers) -> None:
    clock = ManualClock()
    first, second = (Budget(10.0, clock, ledger=ledger("a")) for _ in range(2))
    await first.take(Urgency.STREAM)
    first.too_much(retry_after=30.0)
    waiting = asyncio.create_task(second.take(Urgency.STREAM))
    await clock.advance(29.0)
    assert not waiting.done()
    assert second.rate == 5.0
    await clock.advance(2.0)
    assert waiting.done()
    second.fine()
    await first.take(Urgency.STREAM)
    assert first.rate == pytest.approx(5.1)


async def test_a_stream_goes_before_the_snapshot_of_another_process(ledger: Ledgers) -> None:
    clock = ManualClock()
    stream, snapshot = (Budget(1.0, clock, burst=1, ledger=ledger("a")) for _ in range(2))
    await snapshot.take(Urgency.SNAPSHOT)
    rows = asyncio.create_task(snapshot.take(Urgency.SNAPSHOT))
    change = asyncio.create_task(stream.take(Urgency.STREAM))
    for _ in range(30):
        await clock.advance(0.05)
    assert (change.done(), rows.done()) == (True, False)
    await clock.advance(2.0)
    assert rows.done()


async def test_accounts_do_not_share(ledger: Ledgers) -> None:
    clock = ManualClock()
    first, second = (Budget(1.0, clock, burst=1, ledger=ledger(name)) for name in "ab")
    await first.take(Urgency.STREAM)
    await second.take(Urgency.STREAM)


async def test_a_ledger_that_cannot_be_read_leaves_each_to_itself(tmp_path: Path, ledger: Ledgers) -> None:
    (tmp_path / "b.db").write_bytes(b"not a database, and long enough to be seen as none" * 20)
    budget = Budget(1_000.0, SystemClock(), ledger=ledger("a"))
    for _ in range(10):
        await budget.take(Urgency.STREAM)
    assert budget.spent == 10


async def test_a_clock_that_is_set_back_does_not_stop_anybody(ledger: Ledgers) -> None:
    clock = ManualClock()
    budget = Budget(1.0, clock, burst=1, ledger=ledger("a"))
    await budget.take(Urgency.STREAM)
    clock.set_wall(clock.time() - 86_400)
    waiting = asyncio.create_task(budget.take(Urgency.STREAM))
    await clock.advance(3.0)
    assert waiting.done()


async def test_who_reads_from_an_account_shares_its_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    clock = ManualClock()
    first = Budget.of("secret-1", 1.0, clock)
    assert Budget.of("secret-1", 1.0, clock) is first
    assert Budget.of("secret-2", 1.0, clock) is not first
    alone = Budget.of("secret-1", 1.0, clock, "")
    await first.take(Urgency.STREAM)
    first.too_much()
    elsewhere = Budget.of("secret-1", 1.0, clock, str(tmp_path / "dimesh" / "budgets.db"))
    for _ in range(4):
        await alone.take(Urgency.STREAM)
    await clock.advance(3.0)
    await elsewhere.take(Urgency.STREAM)
    assert (alone.rate, elsewhere.rate) == (1.0, 0.5)
    await clock.advance(700.0)
    await elsewhere.take(Urgency.STREAM)
    assert elsewhere.rate == 1.0, "what it was told so long ago does not count"
    assert b"secret" not in (tmp_path / "dimesh" / "budgets.db").read_bytes()
    for one in (first, elsewhere):
        one.close()
