"""What holds for every test run of this workspace."""

from __future__ import annotations

import gc

import pytest
from hypothesis import settings

settings.register_profile("dimesh", deadline=None)
# For the test command of the README; each other run has the full number of examples.
settings.register_profile("quick", deadline=None, max_examples=25)
settings.load_profile("dimesh")

# Thousands of collected tests are many objects for the garbage collector to go through. (gc.freeze() would hide them
# altogether, but also from hypothesis, which looks for the owner of a random generator among them.)
gc.set_threshold(20_000, 20, 50)

_LONG = 240.0
"""The time limit in seconds above which a test is among the longest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to the slow tests what a suite of the contract kit names as ``long``: its tests have no line here to be marked at.

    Moreover, order the longest tests first.
    """
    for item in items:
        if isinstance(item, pytest.Function) and item.originalname in getattr(item.cls, "long", ()):
            item.add_marker(pytest.mark.slow)
    # The longest tests begin first, so that none of them runs alone at the end while other processes have nothing to do.
    items.sort(key=lambda item: -max(_time_limit(item) - _LONG, 0))


def _time_limit(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker is not None and marker.args else 0.0
