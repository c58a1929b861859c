"""How pytest runs the kits: it checks that they are run whole, and shows what was proved.

pytest loads this plugin wherever the distribution is installed; without a kit it does nothing.

* **Integrity.** It is an error if a test of a kit is overridden in a subclass, marked to be skipped or to fail, removed from
  the collection or skipped by hand: a suite that is green because it is smaller proves nothing. A run that was narrowed
  on purpose (``-k``, ``-m``, ``--lf``, ``-x``, a test's own name) is only called incomplete.
* **The matrix.** At the end, for each class: which capabilities were proved, and which are not offered; with ``-q`` a line
  for each class.
* ``--contract-report FILE`` writes the outcomes as JSON.
* ``--contract-examples N`` sets the number of examples of the state machine, and how much the load tests do.
  ``--contract-seed N`` repeats a run. The seed is fixed, so that a suite does not fail by chance, except where the variable
  CI is set: there each run has another one, which is printed.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import secrets
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from dimesh.capabilities import Capability
from dimesh_contracts.contract import NOT_OFFERED, Contract
from dimesh_contracts.effort import EXAMPLES, FIXED_SEED, configure
from dimesh_contracts.waiting import be_patient_by

PROPERTY = "dimesh-contract"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--contract-report``."""
    group = parser.getgroup("dimesh-contracts")
    group.addoption(
        "--contract-report", metavar="FILE", help="write what the dimesh contract kits proved as JSON"
    )
    group.addoption(
        "--contract-examples",
        metavar="N",
        type=int,
        default=EXAMPLES,
        help=f"the examples of the state machine, and so the load of the load tests; {EXAMPLES} by default",
    )
    group.addoption(
        "--contract-patience",
        metavar="FACTOR",
        type=float,
        default=1.0,
        help="how many times longer than usual a wait may take, for a machine that does much at the same time",
    )
    group.addoption(
        "--contract-seed",
        metavar="N",
        type=int,
        help="the seed of the state machine; by default a fixed one, or a random one where CI is set",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the record of the run."""
    if config.option.contract_seed is None:  # the workers of pytest-xdist get the option with the number
        config.option.contract_seed = secrets.randbelow(1 << 32) if os.environ.get("CI") else FIXED_SEED
    configure(config.option.contract_examples, config.option.contract_seed)
    be_patient_by(config.option.contract_patience)
    config.pluginmanager.register(_Run(config), "dimesh-contracts-run")


class _Run:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._classes: dict[str, type[Contract]] = {}
        self._outcomes: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        self._seen: dict[str, set[str]] = defaultdict(set)
        self._left: dict[str, set[str]] = defaultdict(set)
        self._problems: list[str] = []

    # -- collection ------------------------------------------------------------------------------

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        cls = getattr(item, "cls", None)
        if not (isinstance(cls, type) and issubclass(cls, Contract)) or cls.kit() is None:
            return
        name = f"{item.nodeid.split('::')[0]}::{cls.__qualname__}"
        self._classes.setdefault(name, cls)
        test = getattr(item, "originalname", item.name)
        function = inspect.getattr_static(cls, test, None)
        if not hasattr(function, "guarantee"):
            return  # a test of the subclass itself
        self._seen[name].add(test)
        item.user_properties.append(
            (
                PROPERTY,
                {
                    "class": name,
                    "test": test,
                    "kit": cls.kit().__name__,  # type: ignore[union-attr]
                    "guarantee": function.guarantee.name,
                    "sentence": function.guarantee.sentence,
                    "untested": sorted(c.value for c in set(cls.offers or ()) - _tested(cls)),  # type: ignore[arg-type]
                    "needs": [capability.value for capability in function.needs],
                    "usually_wrong": _usually_wrong(function),
                },
            )
        )

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        if self._narrowed:
            for item in items:
                about = _about(item)
                if about is not None:
                    self._left[about["class"]].add(about["test"])

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            about = _about(item)
            if about is None:
                continue
            self._left[about["class"]].add(about["test"])
            for mark in ("skip", "skipif", "xfail"):
                if item.get_closest_marker(mark) is not None:
                    self._problems.append(f"{about['class']}: {about['test']} is marked {mark}")
        for name, cls in self._classes.items():
            kit = cls.kit()
            assert kit is not None
            for test in kit.names():
                if inspect.getattr_static(cls, test, None) is not inspect.getattr_static(kit, test):
                    self._problems.append(f"{name}: {test} is overridden")
                elif not self._chosen and test not in self._left[name]:
                    self._problems.append(f"{name}: {test} was removed")
            gate = "_only_what_is_offered"
            if inspect.getattr_static(cls, gate) is not inspect.getattr_static(Contract, gate):
                self._problems.append(f"{name}: the fixture that decides what is offered is overridden")
        if self._problems and not self._is_worker:
            raise pytest.UsageError(self._complaint)

    @property
    def _is_worker(self) -> bool:
        """Whether this is a worker of pytest-xdist, where a collection error would look like a crash."""
        return hasattr(self._config, "workerinput")

    @property
    def _complaint(self) -> str:
        return "a contract kit is not run whole:\n  " + "\n  ".join(sorted(set(self._problems)))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if self._problems:
            pytest.fail(self._complaint, pytrace=False)

    @property
    def _narrowed(self) -> bool:
        option = self._config.option
        return bool(
            option.keyword
            or option.markexpr
            or getattr(option, "lf", False)
            or getattr(option, "deselect", None)
            or self._chosen
        )

    @property
    def _chosen(self) -> bool:
        return any("::" in str(argument) for argument in self._config.args)

    # -- running ---------------------------------------------------------------------------------

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        outcome = yield
        report: pytest.TestReport = outcome.get_result()
        about = _about(report)
        if about is None:
            return
        if report.skipped and not _reason(report).startswith(NOT_OFFERED):
            report.outcome = "failed"
            report.longrepr = (
                f"{about['class']}::{about['test']} was skipped by hand ({_reason(report)}): leave what the plugin "
                "does not offer out of its capabilities instead"
            )
        if report.failed:
            text = f"broken guarantee: {about['guarantee']}: {about['sentence']}"
            text += f"\nthe seed of the run: --contract-seed {self._config.option.contract_seed}"
            if about["usually_wrong"]:
                text += f"\nusually wrong: {about['usually_wrong']}"
            report.sections.append(("contract", text))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        about = _about(report)
        if about is None:
            return
        tests = self._outcomes[about["class"]]
        kept = tests.setdefault(about["test"], {**about, "outcome": "passed", "reason": ""})
        if report.failed:
            kept["outcome"] = "failed"
        elif report.skipped and kept["outcome"] == "passed":
            kept["outcome"], kept["reason"] = "not offered", _reason(report).removeprefix(NOT_OFFERED)

    def pytest_report_header(self) -> str:
        option = self._config.option
        return (
            f"dimesh contracts: --contract-examples {option.contract_examples} "
            f"--contract-seed {option.contract_seed}"
        )

    # -- the end ---------------------------------------------------------------------------------

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self._outcomes:
            return
        terminalreporter.section("dimesh contracts")
        for name, tests in sorted(self._outcomes.items()):
            kit = next(iter(tests.values()))["kit"]
            counts = {
                state: sum(t["outcome"] == state for t in tests.values())
                for state in ("passed", "failed", "not offered")
            }
            said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
            terminalreporter.line(f"{name} ({kit}): {said}")
            if self._config.get_verbosity() < 0 and not counts["failed"]:
                continue  # -q: the table of capabilities would be longer than everything else
            matrix = _matrix(tests)
            for capability in next(iter(tests.values()))["untested"]:
                matrix.setdefault(capability, [])
            for capability, states in sorted(matrix.items()):
                verdict = (
                    "stated; this kit has no test for it"
                    if not states
                    else "FAILED"
                    if "failed" in states
                    else "not offered"
                    if set(states) == {"not offered"}
                    else f"proved by {states.count('passed')}"
                )
                terminalreporter.line(f"    {capability:24} {verdict}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        path = self._config.getoption("--contract-report")
        if path and not self._is_worker:
            Path(path).write_text(json.dumps(self._outcomes, indent=1, sort_keys=True), "utf-8")


@functools.cache
def _tested(cls: type[Contract]) -> frozenset[Capability]:
    """Return the capabilities that some test of the kit needs."""
    return frozenset(
        c for name in cls.names() for c in getattr(inspect.getattr_static(cls, name), "needs", ())
    )


def _matrix(tests: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for test in tests.values():
        for capability in test["needs"]:
            # A test that needs several capabilities is "not offered" only for the one that is missing.
            if test["outcome"] != "not offered" or test["reason"] == capability:
                found[capability].append(test["outcome"])
    return found


def _about(report: pytest.TestReport | pytest.Item) -> dict[str, Any] | None:
    for key, value in report.user_properties:
        if key == PROPERTY:
            assert isinstance(value, dict)
            return value
    return None


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longrepr or "")


def _usually_wrong(function: Any) -> str:
    _, _, text = " ".join((function.__doc__ or "").split()).partition("Usually wrong: ")
    return text
