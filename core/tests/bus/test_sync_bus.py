"""Buses in code without an event loop, and buses in the wrong one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dimesh import (
    BusClosedError,
    BusError,
    DeadLetters,
    Event,
    EventBus,
    EventBusFactory,
    Mesh,
    RequestTimeoutError,
    StorageError,
    SyncBus,
    load_settings,
)
from dimesh.spi.bus import StartAt

from .conftest import event, eventually

MakeBus = Callable[..., EventBus]


def in_another_loop(call: Callable[[], Any]) -> BaseException | None:
    """Return the error that a coroutine raises in an event loop of another thread; None: no error."""
    caught: list[BaseException | None] = []

    def run() -> None:
        async def main() -> None:
            await call()

        try:
            asyncio.run(main())
        except BaseException as error:
            caught.append(error)
        else:
            caught.append(None)

    thread = threading.Thread(target=run, name="elsewhere")
    thread.start()
    thread.join(10)
    (result,) = caught
    return result


# -- the wrong loop --------------------------------------------------------------------------------

CALLS: dict[str, Callable[[EventBus], Any]] = {
    "open": lambda bus: bus.open(),
    "close": lambda bus: bus.close(),
    "publish": lambda bus: bus.publish("t", event(2)),
    "publish_many": lambda bus: bus.publish_many("t", [event(2)]),
    "request": lambda bus: bus.request("t", event(2), timeout=1),
    "subscribe": lambda bus: bus.subscribe("t", lambda e: None),
    "unsubscribe": lambda bus: bus.unsubscribe("g"),
    "idle": lambda bus: bus.idle(),
    "async with": lambda bus: bus.__aenter__(),
    "dead letters": lambda bus: DeadLetters(bus).entries(),
    "door": lambda bus: bus.door.topics(),
    "subscription": lambda bus: bus.subscription("g").caught_up(),
}


def test_every_coroutine_method_is_in_the_list() -> None:
    methods = {
        n
        for n in dir(EventBus)
        if not n.startswith("_") and asyncio.iscoroutinefunction(getattr(EventBus, n))
    }
    assert methods <= CALLS.keys()


async def test_another_event_loop_is_refused_before_anything_is_done(bus: EventBus) -> None:
    found: list[int] = []
    await bus.subscribe("t", lambda e: found.append(e.payload["n"]), "g", start=StartAt.EARLIEST)
    for name, call in CALLS.items():
        error = in_another_loop(lambda call=call: call(bus))
        assert isinstance(error, BusError), name
        assert not isinstance(error, BusClosedError), name
        assert "another event loop" in str(error), name
        assert "elsewhere" in str(error), name
    await bus.publish("t", event(3))
    await eventually(lambda: found)
    await bus.idle()
    assert found == [3]
    assert list(bus.stats()) == ["g"]
    assert not bus.closed


def test_a_bus_does_not_outlive_its_event_loop(make_sync: Callable[[], EventBus]) -> None:
    bus = make_sync()

    async def use() -> None:
        await bus.publish("t", event(1))

    def in_two_loops() -> None:
        asyncio.run(use())
        with pytest.raises(BusError, match=r"another event loop \(closed\)"):
            asyncio.run(use())
        assert bus._forgotten is not None
        bus._forgotten()

    with pytest.warns(ResourceWarning, match="an event bus"):
        in_two_loops()


@pytest.fixture
def make_sync(kind: str, tmp_path: Path) -> Callable[[], EventBus]:
    options = {} if kind == "memory" else {"path": str(tmp_path / "mesh.db")}
    return lambda: EventBusFactory.create(kind, **options)


# -- a loop of its own -----------------------------------------------------------------------------


def read(path: Path, topic: str = "t") -> list[int]:
    async def main() -> list[int]:
        async with EventBusFactory.create("sqlite", path=str(path)) as bus:
            return [d.record.event.payload["n"] for d in await bus.door.read(topic, StartAt.EARLIEST, 10_000)]

    return asyncio.run(main())


def test_plain_functions_and_threads_publish(
    make_sync: Callable[[], EventBus], kind: str, tmp_path: Path
) -> None:
    with SyncBus(make_sync()) as bus:
        receipt = bus.publish("t", event(0), key="k")
        assert receipt.position is not None
        events = [event(1), event(2)]
        assert [r.event_id for r in bus.publish_many("t", events)] == [e.event_id for e in events]
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda n: bus.publish("t", event(n)), range(3, 103)))
        with pytest.raises(RequestTimeoutError):
            bus.request("t", event(103), timeout=0.05)
    assert bus.closed
    with pytest.raises(BusClosedError):
        bus.publish("t", event(9))
    bus.close()
    assert not [t for t in threading.enumerate() if t.name == "dimesh-sync-bus"]
    if kind == "sqlite":
        assert sorted(read(tmp_path / "mesh.db")) == list(range(104))


def test_the_bus_of_a_mesh_publishes(tmp_path: Path) -> None:
    (tmp_path / "dimesh.toml").write_text(
        f'[mesh]\nname = "shop"\ndata_dir = "{tmp_path}"\n[bus]\ndriver = "sqlite"\n'
    )
    with SyncBus(Mesh(load_settings(tmp_path / "dimesh.toml").settings)) as bus:
        bus.publish("t", event(5))
    assert read(tmp_path / "mesh.db") == [5]


async def test_a_sync_bus_refuses_to_block_an_event_loop(make_sync: Callable[[], EventBus]) -> None:
    bus = SyncBus(make_sync())
    for call in (lambda: bus.publish("t", event(1)), bus.open, bus.close):
        with pytest.raises(BusError, match=r"asyncio\.to_thread"):
            call()
    await asyncio.to_thread(bus.publish, "t", event(1))
    await asyncio.to_thread(bus.close)


def test_opening_that_fails_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    path.write_bytes(b"no database" * 1000)
    bus = SyncBus(EventBusFactory.create("sqlite", path=str(path)))
    with pytest.raises(StorageError):
        bus.publish("t", event(1))
    path.unlink()
    bus.publish("t", event(1))
    bus.close()
    assert read(path) == [1]


# -- the loop of others ----------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_plain_handler_publishes_through_the_bus_that_calls_it(bus: EventBus) -> None:
    found: list[int] = []

    def forward(e: Event) -> None:
        bus.sync.publish("out", event(e.payload["n"] + 1))

    with pytest.raises(BusError, match="not open"):
        _ = bus.sync
    await bus.subscribe("out", lambda e: found.append(e.payload["n"]))
    await bus.subscribe("in", forward)
    await bus.publish("in", event(1))
    await eventually(lambda: found == [2])
    sync = bus.sync
    assert sync is bus.sync
    await asyncio.to_thread(sync.close)
    with pytest.raises(BusClosedError):
        await asyncio.to_thread(sync.publish, "in", event(2))
    await bus.publish("in", event(3))  # the bus itself is open


async def test_a_plain_handler_may_close_the_bus_that_calls_it(bus: EventBus) -> None:
    loop = asyncio.get_running_loop()
    returned = threading.Event()

    def end(e: Event) -> None:
        asyncio.run_coroutine_threadsafe(bus.close(), loop).result(5)
        returned.set()

    await bus.subscribe("t", end, "g")
    await bus.publish("t", event(1))
    await eventually(returned.is_set)
    async with asyncio.timeout(5):
        await bus.close()


def test_a_loop_that_has_ended_is_an_error(make_sync: Callable[[], EventBus]) -> None:
    async def main() -> SyncBus:
        async with make_sync() as bus:
            return bus.sync

    bus = asyncio.run(main())
    with pytest.raises(BusClosedError, match="event loop"):
        bus.publish("t", event(1))


# -- processes -------------------------------------------------------------------------------------


def in_child(call: Callable[[], None]) -> int:
    """Run ``call`` in a forked process; return 0, or 1 if it raised BusError, or 2 for anything else."""
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            call()
            code = 0
        except BusError as error:
            code = 1 if "forked" in str(error) else 3
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_is_refused_clearly_and_a_fresh_bus_works_there(tmp_path: Path) -> None:
    def make() -> SyncBus:
        return SyncBus(EventBusFactory.create("sqlite", path=str(tmp_path / "mesh.db")))

    prefork = make()  # as in the module of an application that a server loads before it forks

    def work() -> None:
        prefork.publish("t", event(1))
        prefork.close()

    assert in_child(work) == 0
    with make() as opened:
        opened.publish("t", event(2))
        assert in_child(lambda: opened.publish("t", event(3)) and None) == 1
        assert in_child(opened.close) == 1
        opened.publish("t", event(4))
    assert sorted(read(tmp_path / "mesh.db")) == [1, 2, 4]


def test_a_program_that_forgets_to_close_ends_cleanly(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    program = (
        "from dimesh import Event, EventBusFactory, SyncBus\n"
        f"bus = SyncBus(EventBusFactory.create('sqlite', path={str(path)!r}))\n"
        "bus.publish('t', Event('a.b', None, {'n': 7}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert read(path) == [7]
