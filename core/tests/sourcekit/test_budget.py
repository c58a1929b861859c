"""The budget of an account: in one process, and in several that share a ledger."""

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
from dimesh.sourcekit.budget import Priority, RateLimiter
from dimesh.sourcekit.ledger import Ledger
from dimesh.storage.process import this_process

Ledgers = Callable[[str], Ledger]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledgers]:
    with ExitStack() as stack:
        yield lambda account: stack.enter_context(closing(Ledger(tmp_path / "b.db", account)))


async def take(budget: RateLimiter, priority: Priority) -> None:
    """Make a request that is answered at once."""
    async with budget.request(priority):
        pass


TAKES = """
import asyncio, sys, time
from dimesh.clock import SystemClock
from dimesh.sourcekit.budget import RateLimiter, Priority
from dimesh.sourcekit.ledger import Ledger

async def main(path, count):
    budget = RateLimiter(50.0, SystemClock(), ledger=Ledger(path, "account"))
    for _ in range(count):
        async with budget.request(Priority.STREAM):
            print(time.time(), flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.mark.slow
def test_two_processes_share_one_rate(tmp_path: Path) -> None:
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


async def test_a_refusal_of_one_process_slows_the_other_down(ledger: Ledgers) -> None:
    clock = ManualClock()
    first, second = (RateLimiter(10.0, clock, ledger=ledger("a")) for _ in range(2))
    await take(first, Priority.STREAM)
    first.throttled(retry_after=30.0)
    waiting = asyncio.create_task(take(second, Priority.STREAM))
    await clock.advance(29.0)
    assert not waiting.done()
    assert second.rate == 5.0
    await clock.advance(2.0)
    assert waiting.done()
    second.succeeded()
    await take(first, Priority.STREAM)
    assert first.rate == pytest.approx(5.1)


async def test_a_stream_has_priority_over_the_snapshot_of_another_process(ledger: Ledgers) -> None:
    clock = ManualClock()
    stream, snapshot = (RateLimiter(1.0, clock, burst=1, ledger=ledger("a")) for _ in range(2))
    await take(snapshot, Priority.SNAPSHOT)
    rows = asyncio.create_task(take(snapshot, Priority.SNAPSHOT))
    change = asyncio.create_task(take(stream, Priority.STREAM))
    for _ in range(30):
        await clock.advance(0.05)
    assert (change.done(), rows.done()) == (True, False)
    await clock.advance(2.0)
    assert rows.done()


async def test_accounts_share_nothing(ledger: Ledgers) -> None:
    clock = ManualClock()
    first, second = (RateLimiter(1.0, clock, burst=1, ledger=ledger(name)) for name in "ab")
    await take(first, Priority.STREAM)
    await take(second, Priority.STREAM)


async def test_without_a_readable_ledger_each_process_counts_alone(tmp_path: Path, ledger: Ledgers) -> None:
    (tmp_path / "b.db").write_bytes(b"not a database, and long enough to be seen as none" * 20)
    budget = RateLimiter(1_000.0, SystemClock(), ledger=ledger("a"))
    for _ in range(10):
        await take(budget, Priority.STREAM)
    assert budget.requests == 10


async def test_a_ledger_of_another_version_is_replaced(tmp_path: Path, ledger: Ledgers) -> None:
    with closing(sqlite3.connect(tmp_path / "b.db")) as old, old:
        old.execute("CREATE TABLE accounts (name TEXT PRIMARY KEY, rate REAL)")
    clock = ManualClock()
    first, second = (RateLimiter(10.0, clock, ledger=ledger("a")) for _ in range(2))
    await take(first, Priority.STREAM)
    first.throttled()
    waiting = asyncio.create_task(take(second, Priority.STREAM))
    await clock.advance(1.0)
    assert waiting.done()
    assert second.rate == 5.0


async def test_a_clock_that_is_set_back_stops_no_request(ledger: Ledgers) -> None:
    clock = ManualClock()
    budget = RateLimiter(1.0, clock, burst=1, ledger=ledger("a"))
    await take(budget, Priority.STREAM)
    clock.set_wall(clock.time() - 86_400)
    waiting = asyncio.create_task(take(budget, Priority.STREAM))
    await clock.advance(3.0)
    assert waiting.done()


async def test_readers_of_an_account_share_its_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    clock = ManualClock()
    first = RateLimiter.shared("secret-1", 1.0, clock)
    assert RateLimiter.shared("secret-1", 1.0, clock) is first
    assert RateLimiter.shared("secret-2", 1.0, clock) is not first
    alone = RateLimiter.shared("secret-1", 1.0, clock, "")
    await take(first, Priority.STREAM)
    first.throttled()
    elsewhere = RateLimiter.shared("secret-1", 1.0, clock, str(tmp_path / "dimesh" / "budgets.db"))
    for _ in range(4):
        await take(alone, Priority.STREAM)
    await clock.advance(3.0)
    await take(elsewhere, Priority.STREAM)
    assert (alone.rate, elsewhere.rate) == (1.0, 0.5)
    await clock.advance(700.0)
    await take(elsewhere, Priority.STREAM)
    assert elsewhere.rate == 1.0, "what it was told so long ago does not count"
    assert b"secret" not in (tmp_path / "dimesh" / "budgets.db").read_bytes()
    for one in (first, elsewhere):
        one.close()


class Server:
    """Answers requests when the test says so."""

    def __init__(self) -> None:
        self.at_once = 0
        self.most = 0
        self.answered = 0
        self.answer = asyncio.Event()

    async def ask(self, budget: RateLimiter, priority: Priority = Priority.SNAPSHOT) -> None:
        async with budget.request(priority):
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            await self.answer.wait()
            self.at_once -= 1
            self.answered += 1
            budget.succeeded()


async def test_the_concurrency_is_a_limit(ledger: Ledgers) -> None:
    clock = ManualClock()
    server = Server()
    first, second = (
        RateLimiter(1_000.0, clock, burst=50, ledger=ledger("a"), concurrency=4) for _ in range(2)
    )
    asking = [asyncio.create_task(server.ask(budget)) for budget in (first, second) for _ in range(5)]
    await clock.advance(1.0)
    assert server.at_once == 3, "one place is left for streams"
    streams = [asyncio.create_task(server.ask(second, Priority.STREAM)) for _ in range(2)]
    await clock.advance(1.0)
    assert server.at_once == 4
    server.answer.set()
    await clock.advance(5.0)
    assert server.answered == 12
    assert server.most <= 4
    await asyncio.gather(*asking, *streams)


async def test_the_concurrency_goes_down_after_a_refusal_and_up_again(ledger: Ledgers) -> None:
    clock = ManualClock()
    budget, other = (RateLimiter(1_000.0, clock, ledger=ledger("a"), concurrency=8) for _ in range(2))
    for expected in (4, 2, 1, 1):
        budget.throttled(at_once=True)
        assert budget.concurrency == expected
    assert budget.rate == 1_000.0
    await take(other, Priority.STREAM)
    assert other.concurrency == 1
    for _ in range(60):
        budget.succeeded()
    assert budget.concurrency == 8


async def test_a_cancelled_request_leaves_its_place() -> None:
    clock = ManualClock()
    server = Server()
    budget = RateLimiter(1_000.0, clock, burst=50, concurrency=1)
    asking = [asyncio.create_task(server.ask(budget)) for _ in range(3)]
    await clock.advance(0.1)
    for task in asking[:2]:  # one in flight, and one that waits
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
from dimesh.sourcekit.budget import RateLimiter, Priority
from dimesh.sourcekit.ledger import Ledger

async def main(path):
    budget = RateLimiter(1_000.0, SystemClock(), ledger=Ledger(path, "account"), concurrency=1)
    async with budget.request(Priority.STREAM):
        print("asked", flush=True)
        await asyncio.sleep(3_600)

asyncio.run(main(sys.argv[1]))
"""


async def test_requests_of_a_killed_process_are_over(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    process = subprocess.Popen([sys.executable, "-c", HANGS, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == "asked\n"
    with closing(Ledger(path, "account")) as shared:
        budget = RateLimiter(1_000.0, SystemClock(), ledger=shared, concurrency=1)
        waiting = asyncio.create_task(take(budget, Priority.STREAM))
        done, _ = await asyncio.wait({waiting}, timeout=0.3)
        assert not done
        process.kill()
        process.communicate()
        await asyncio.wait_for(waiting, 5)


async def test_requests_of_an_invisible_process_are_over_after_a_while(
    ledger: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process in another container, for example, that writes nothing any more."""
    clock = ManualClock()
    elsewhere = this_process()._replace(namespace="elsewhere")
    monkeypatch.setattr("dimesh.sourcekit.ledger.this_process", lambda: elsewhere)
    died = RateLimiter(1_000.0, clock, burst=50, ledger=ledger("a"), concurrency=1)
    monkeypatch.undo()
    lives = RateLimiter(1_000.0, clock, burst=50, ledger=ledger("a"), concurrency=1)
    hangs = asyncio.create_task(Server().ask(died))
    await clock.advance(0.1)
    waiting = asyncio.create_task(take(lives, Priority.STREAM))
    await clock.advance(50.0)
    assert not waiting.done()
    await clock.advance(11.0)
    assert waiting.done()
    hangs.cancel()
