"""The broker suite finds its targets: a bus that only its own process sees, and one that loses an event."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest_plugins = ["pytester"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SUITE = """
import pytest
from dimesh.capabilities import Capability
from dimesh.clock import SystemClock
from dimesh.backends.bus.sqlite.backend import SqliteBackend
from dimesh.backends.bus.sqlite.options import SqliteOptions
from dimesh_contracts.broker.commands import Commands
from dimesh_contracts.broker.network import Network
from dimesh_contracts.proxy import FaultProxy

class Backend(SqliteBackend):
    pass

class TestMine(Commands, Network):
    offers = {
        Capability.GROUPS, Capability.MULTI_PROCESS, Capability.LOOK_BACK, Capability.KEY_ORDER, Capability.COUNTED_LAG
    }

    @pytest.fixture
    def new_backend(self, tmp_path):
        return lambda: Backend(SqliteOptions(path=str(tmp_path / "bus.db")), SystemClock())

    @pytest.fixture
    def driver(self, tmp_path):
        return "sqlite", {"path": str(tmp_path / "bus.db")}

    @pytest.fixture
    async def proxy(self):
        async with FaultProxy(9) as proxy:
            yield proxy

    @pytest.fixture
    def new_proxied_backend(self, new_backend):
        return new_backend
"""
LOSSY = """
class Backend(SqliteBackend):
    appended = 0

    async def append(self, topic, records, **how):
        Backend.appended += 1
        if Backend.appended == 100:
            return [None] * len(records)
        return await super().append(topic, records, **how)
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    def run(suite: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyprojecttoml('[tool.pytest.ini_options]\nasyncio_mode = "auto"\n')
        pytester.makepyfile(test_mine=suite)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)

    return run


def test_a_bus_that_keeps_its_promises_passes(run: Callable[..., pytest.RunResult]) -> None:
    result = run(SUITE, "-k", "dead_letters or replay or members")
    outcomes = result.parseoutcomes()
    assert outcomes.pop("deselected") > 0  # a new test of the suite is no reason to change this one
    outcomes.pop("warnings", None)
    assert outcomes == {"passed": 3}


def test_a_bus_that_other_processes_do_not_see_is_found(run: Callable[..., pytest.RunResult]) -> None:
    suite = SUITE.replace('return "sqlite", {"path": str(tmp_path / "bus.db")}', 'return "memory", {}')
    result = run(suite, "-k", "replay")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*broken guarantee: COMMANDS: *", "usually wrong: *"])


def test_a_bus_that_loses_an_acknowledged_event_is_found(run: Callable[..., pytest.RunResult]) -> None:
    suite = SUITE.replace("class Backend(SqliteBackend):\n    pass\n", LOSSY)
    suite = suite.replace("offers =", "patience = 3.0\n    offers =")
    result = run(suite, "-k", "members")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*broken guarantee: MEMBERS: *", "usually wrong: *"])
