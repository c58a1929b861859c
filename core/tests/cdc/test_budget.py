"""Requests of an account: one process, and several that share a ledger."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from dimesh.clock import ManualClock, SystemClock
from dimesh.spi.budget import Budget, Urgency
from dimesh.spi.ledger import Ledger

Ledgers = Callable[[str], Ledger]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledgers]:
    with ExitStack() as stack:
        yield lambda account: stack.enter_context(closing(Ledger(tmp_path / "b.db", account)))


async def take(budget: Budget, urgency: Urgency) -> None:
    """A request that is answered at once."""
    async with budget.request(urgency):
        pass


TAKES = """
import asyncio, sys, time
from dimesh.clock import SystemClock
from dimesh.spi.budget import Budget, Urgency
from dimesh.spi.ledger import Ledger

async def main(path, count):
    budget = Budget(50.0, SystemClock(), ledger=Ledger(path, "account"))
    for _ in range(count):
        async with budget.request(Urgency.STREAM):
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
    await take(first, Urgency.STREAM)
    first.too_much(retry_after=30.0)
    waiting = asyncio.create_task(take(second, Urgency.STREAM))
    await clock.advance(29.0)
    assert not waiting.done()
    assert second.rate == 5.0
    await clock.advance(2.0)
    assert waiting.done()
    second.fine()
    await take(first, Urgency.STREAM)
    assert first.rate == pytest.approx(5.1)


async def test_a_stream_goes_before_the_snapshot_of_another_process(ledger: Ledgers) -> None:
    clock = ManualClock()
    stream, snapshot = (Budget(1.0, clock, burst=1, ledger=ledger("a")) for _ in range(2))
    await take(snapshot, Urgency.SNAPSHOT)
    rows = asyncio.create_task(take(snapshot, Urgency.SNAPSHOT))
    change = asyncio.create_task(take(stream, Urgency.STREAM))
    for _ in range(30):
        await clock.advance(0.05)
    assert (change.done(), rows.done()) == (True, False)
    await clock.advance(2.0)
    assert rows.done()


async def test_accounts_do_not_share(ledger: Ledgers) -> None:
    clock = ManualClock()
    first, second = (Budget(1.0, clock, burst=1, ledger=ledger(name)) for name in "ab")
    await take(first, Urgency.STREAM)
    await take(second, Urgency.STREAM)


async def test_a_ledger_that_cannot_be_read_leaves_each_to_itself(tmp_path: Path, ledger: Ledgers) -> None:
    (tmp_path / "b.db").write_bytes(b"not a database, and long enough to be seen as none" * 20)
    budget = Budget(1_000.0, SystemClock(), ledger=ledger("a"))
    for _ in range(10):
        await take(budget, Urgency.STREAM)
    assert budget.spent == 10


async def test_a_ledger_of_another_version_is_made_anew(tmp_path: Path, ledger: Ledgers) -> None:
    with closing(sqlite3.connect(tmp_path / "b.db")) as old, old:
        old.execute("CREATE TABLE accounts (name TEXT PRIMARY KEY, rate REAL)")
    clock = ManualClock()
    first, second = (Budget(10.0, clock, ledger=ledger("a")) for _ in range(2))
    await take(first, Urgency.STREAM)
    first.too_much()
    waiting = asyncio.create_task(take(second, Urgency.STREAM))
    await clock.advance(1.0)
    assert waiting.done()
    assert second.rate == 5.0


async def test_a_clock_that_is_set_back_does_not_stop_anybody(ledger: Ledgers) -> None:
    clock = ManualClock()
    budget = Budget(1.0, clock, burst=1, ledger=ledger("a"))
    await take(budget, Urgency.STREAM)
    clock.set_wall(clock.time() - 86_400)
    waiting = asyncio.create_task(take(budget, Urgency.STREAM))
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
    await take(first, Urgency.STREAM)
    first.too_much()
    elsewhere = Budget.of("secret-1", 1.0, clock, str(tmp_path / "dimesh" / "budgets.db"))
    for _ in range(4):
        await take(alone, Urgency.STREAM)
    await clock.advance(3.0)
    await take(elsewhere, Urgency.STREAM)
    assert (alone.rate, elsewhere.rate) == (1.0, 0.5)
    await clock.advance(700.0)
    await take(elsewhere, Urgency.STREAM)
    assert elsewhere.rate == 1.0, "what it was told so long ago does not count"
    assert b"secret" not in (tmp_path / "dimesh" / "budgets.db").read_bytes()
    for one in (first, elsewhere):
        one.close()


class Server:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.at_once = 0
        self.most = 0
        self.answered = 0
        self.answer = asyncio.Event()

    async def ask(self, budget: Budget, urgency: Urgency = Urgency.SNAPSHOT) -> None:
        async with budget.request(urgency):
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            await self.answer.wait()
            self.at_once -= 1
            self.answered += 1
            budget.fine()


async def test_no_more_are_on_their_way_than_may_be(ledger: Ledgers) -> None:
    clock = ManualClock()
    server = Server()
    first, second = (Budget(1_000.0, clock, burst=50, ledger=ledger("a"), concurrency=4) for _ in range(2))
    asking = [asyncio.create_task(server.ask(budget)) for budget in (first, second) for _ in range(5)]
    await clock.advance(1.0)
    assert server.at_once == 3, "one place is left for streams"
    streams = [asyncio.create_task(server.ask(second, Urgency.STREAM)) for _ in range(2)]
    await clock.advance(1.0)
    assert server.at_once == 4
    server.answer.set()
    await clock.advance(5.0)
    assert server.answered == 12
    assert server.most <= 4
    await asyncio.gather(*asking, *streams)


async def test_concurrency_goes_down_when_it_is_too_much_and_up_again(ledger: Ledgers) -> None:
    clock = ManualClock()
    budget, other = (Budget(1_000.0, clock, ledger=ledger("a"), concurrency=8) for _ in range(2))
    for expected in (4, 2, 1, 1):
        budget.too_much(at_once=True)
        assert budget.concurrency == expected
    assert budget.rate == 1_000.0
    await take(other, Urgency.STREAM)
    assert other.concurrency == 1
    for _ in range(60):
        budget.fine()
    assert budget.concurrency == 8


async def test_a_request_that_is_given_up_leaves_its_place() -> None:
    clock = ManualClock()
    server = Server()
    budget = Budget(1_000.0, clock, burst=50, concurrency=1)
    asking = [asyncio.create_task(server.ask(budget)) for _ in range(3)]
    await clock.advance(0.1)
    for task in asking[:2]:  # one that is on its way, and one that waits
        task.cancel()
    await clock.advance(0.1)
    assert [task.done() for task in asking] == [True, True, False]
    server.answer.set()
    await clock.advance(0.1)
    await asking[2]
    assert server.answered == 1


HANGS = """
import asyncio, sys
from dimesh.clock import SystemClock
from dimesh.spi.budget import Budget, Urgency
from dimesh.spi.ledger import Ledger

async def main(path):
    budget = Budget(1_000.0, SystemClock(), ledger=Ledger(path, "account"), concurrency=1)
    async with budget.request(Urgency.STREAM):
        print("asked", flush=True)
        await asyncio.sleep(3_600)

asyncio.run(main(sys.argv[1]))
"""


async def test_requests_of_a_process_that_was_killed_are_over(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    process = subprocess.Popen([sys.executable, "-c", HANGS, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == "asked\n"
    with closing(Ledger(path, "account")) as shared:
        budget = Budget(1_000.0, SystemClock(), ledger=shared, concurrency=1)
        waiting = asyncio.create_task(take(budget, Urgency.STREAM))
        done, _ = await asyncio.wait({waiting}, timeout=0.3)
        assert not done
        process.kill()
        process.communicate()
        await asyncio.wait_for(waiting, 5)


async def test_requests_of_a_process_that_nobody_sees_are_over_some_time(
    ledger: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in another container, say, that says nothing any more."""
    clock = ManualClock()
    monkeypatch.setattr("dimesh.spi.ledger._place", lambda: "elsewhere")
    died = Budget(1_000.0, clock, burst=50, ledger=ledger("a"), concurrency=1)
    monkeypatch.undo()
    lives = Budget(1_000.0, clock, burst=50, ledger=ledger("a"), concurrency=1)
    hangs = asyncio.create_task(Server().ask(died))
    await clock.advance(0.1)
    waiting = asyncio.create_task(take(lives, Urgency.STREAM))
    await clock.advance(50.0)
    assert not waiting.done()
    await clock.advance(11.0)
    assert waiting.done()
    hangs.cancel()
