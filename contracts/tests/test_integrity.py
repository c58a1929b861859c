"""No test of a kit can be removed or skipped without an error."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from dimesh_contracts.broker import BrokerContract
from dimesh_contracts.bus import BusBackendContract
from dimesh_contracts.cdc import CDCSourceContract
from dimesh_contracts.contract import Contract
from dimesh_contracts.lineage import LineageSinkContract
from dimesh_contracts.registry import RegistryStoreContract
from dimesh_contracts.schema import SchemaLanguageContract

pytest_plugins = ["pytester"]

pytestmark = pytest.mark.slow  # each test runs pytest in a process of its own

SUITE = """
import pytest
from dimesh.backends.lineage.memory import MemorySink
from dimesh.capabilities import Capability
from dimesh_contracts.lineage import LineageSinkContract

class TestMine(LineageSinkContract):
    offers = {Capability.READ_BACK}

    @pytest.fixture
    def new_sink(self):
        sink = MemorySink()
        return lambda: sink
"""


@pytest.mark.parametrize(
    "kit",
    [
        BrokerContract,
        BusBackendContract,
        CDCSourceContract,
        LineageSinkContract,
        RegistryStoreContract,
        SchemaLanguageContract,
    ],
)
def test_no_test_of_a_kit_hides_another(kit: type[Contract]) -> None:
    """A kit is made of several classes: of two tests with one name only the first would run."""
    names = [name for base in kit.__mro__ for name in vars(base) if name.startswith("test_")]
    assert [name for name, times in Counter(names).items() if times > 1] == []


@pytest.fixture
def run(pytester: pytest.Pytester) -> object:
    def run(addition: str = "", *arguments: str, suite: str = SUITE, conftest: str = "") -> pytest.RunResult:
        pytester.makepyprojecttoml('[tool.pytest.ini_options]\nasyncio_mode = "auto"\n')
        pytester.makepyfile(test_mine=suite + addition)
        if conftest:
            pytester.makeconftest(conftest)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)

    return run


def test_a_complete_kit_prints_the_proved_guarantees(run, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    result = run("", "--contract-report", str(report))
    result.assert_outcomes(passed=7, skipped=1)
    result.stdout.fnmatch_lines(["*TestMine (LineageSinkContract): 7 passed, 1 not offered"])
    result.stdout.fnmatch_lines(["*durable*not offered", "*read-back*proved by 2"])
    (found,) = json.loads(report.read_text()).values()
    assert found["test_records_survive"]["outcome"] == "not offered"
    assert found["test_forgets_what_is_older"]["guarantee"] == "FORGET"


@pytest.mark.parametrize(
    ("addition", "complaint"),
    [
        (
            "\n    async def test_forgets_what_is_older(self): pass\n",
            "test_forgets_what_is_older is overridden",
        ),
        ("\n    test_forgets_what_is_older = None\n", "test_forgets_what_is_older is overridden"),
        (
            "\n    test_forgets_what_is_older = pytest.mark.skip(LineageSinkContract.test_forgets_what_is_older)\n",
            "test_forgets_what_is_older is marked skip",
        ),
        ("\npytestmark = pytest.mark.xfail\n", "is marked xfail"),
        (
            "\n    @pytest.fixture(autouse=True)\n    def _only_what_is_offered(self): pass\n",
            "the fixture that decides what is offered is overridden",
        ),
    ],
)
def test_a_test_that_is_left_out_is_an_error(run, addition: str, complaint: str) -> None:
    result = run(addition)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*a contract kit is not run whole:", f"*{complaint}*"])


def test_a_test_that_a_plugin_removes_is_detected(run) -> None:
    result = run(
        conftest="def pytest_collection_modifyitems(items):\n"
        "    items[:] = [item for item in items if 'forgets' not in item.name]\n"
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_forgets_what_is_older was removed*"])


def test_workers_of_xdist_detect_it_too(run) -> None:
    pytest.importorskip("xdist")
    result = run("\n    async def test_forgets_what_is_older(self): pass\n", "-n", "2")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["*a contract kit is not run whole:*", "*test_forgets_what_is_older is overridden*"]
    )
    whole = run("", "-n", "2")
    whole.assert_outcomes(passed=7, skipped=1)
    whole.stdout.fnmatch_lines(["*TestMine (LineageSinkContract): 7 passed, 1 not offered"])


def test_a_run_narrowed_on_purpose_is_no_error(run) -> None:
    run("", "-k", "forgets").assert_outcomes(passed=1, deselected=7)


def test_skipping_by_hand_is_a_failure(run) -> None:
    result = run(
        "\n    @pytest.fixture(autouse=True)\n"
        "    def tired(self, request):\n"
        "        if 'forgets' in request.node.name: pytest.skip('flaky')\n"
    )
    result.assert_outcomes(passed=6, skipped=1, errors=1)
    result.stdout.fnmatch_lines(["*was skipped by hand (flaky)*"])


@pytest.mark.parametrize(
    ("offers", "complaint"),
    [
        ("set()", "*the plugin states ?'read-back'?: add them to 'offers'*"),
        (
            "{Capability.READ_BACK, Capability.PUSH}",
            "*'offers' names ?'push'?, the plugin does not state them*",
        ),
        ("None", "*TestMine does not say what it offers*"),
    ],
)
def test_offered_capabilities_must_equal_the_stated_ones(run, offers: str, complaint: str) -> None:
    result = run("", suite=SUITE.replace("{Capability.READ_BACK}", offers))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([complaint])


def test_a_capability_that_is_claimed_and_missing_fails_and_is_named(run) -> None:
    suite = SUITE.replace(
        "class TestMine",
        "class Forgetful(MemorySink):\n    async def read(self):\n        yield ()\n\nclass TestMine",
    ).replace("sink = MemorySink()", "sink = Forgetful()")
    result = run("", suite=suite)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "*broken guarantee: READ_BACK: What was written is read back complete, oldest first.",
            "usually wrong: *",
        ]
    )
    result.stdout.fnmatch_lines(["*read-back*FAILED"])


def test_a_third_party_subscribes_in_under_ten_lines() -> None:
    lines = SUITE[SUITE.index("class TestMine") :].strip().splitlines()
    assert len([line for line in lines if line.strip()]) < 10


def test_every_test_names_its_guarantee_and_the_usual_mistake() -> None:
    from dimesh_contracts.broker import BrokerContract
    from dimesh_contracts.bus import BusBackendContract
    from dimesh_contracts.cdc import CDCSourceContract
    from dimesh_contracts.lineage import LineageSinkContract
    from dimesh_contracts.registry import RegistryStoreContract
    from dimesh_contracts.schema import SchemaLanguageContract

    for kit in (
        BusBackendContract,
        BrokerContract,
        RegistryStoreContract,
        SchemaLanguageContract,
        CDCSourceContract,
        LineageSinkContract,
    ):
        names = set(kit.names())
        assert names == {name for name in dir(kit) if name.startswith("test_")}
        for name in names:
            assert "Usually wrong: " in " ".join((getattr(kit, name).__doc__ or "").split()), name
        guarantees = {getattr(kit, name).guarantee for name in names}
        assert guarantees == set(type(next(iter(guarantees)))), "a guarantee without a test"
