"""The base of every kit: a test proves a guarantee, and needs the capabilities that the guarantee depends on.

A third party subclasses a kit, states what its plugin offers, and adds a fixture::

    class TestMine(BusBackendContract):
        offers = {Capability.GROUPS, Capability.REPLAY}

        @pytest.fixture
        def new_backend(self, tmp_path):
            return lambda: MyBackend(tmp_path)

A test that needs a capability which is not offered is reported as "not offered"; a capability that is offered and does not
hold fails. A subclass may not leave a test out: :mod:`dimesh_contracts.pytest_plugin` checks that.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterator
from enum import Enum
from typing import Any, ClassVar, TypeVar, cast

import pytest

from dimesh.capabilities import Capability
from dimesh_contracts.limit import within
from dimesh_contracts.waiting import be_patient

NOT_OFFERED = "not offered: "
"""The beginning of the reason of a skip that the kit itself decided."""

DEADLINE = 6.0
"""The longest time of a test, as a multiple of the patience of its class."""

F = TypeVar("F", bound=Callable[..., Any])


class Guarantee(Enum):
    """A promise in one sentence. Each kind of plugin has an enumeration of its own."""

    @property
    def sentence(self) -> str:
        """The promise in words."""
        return str(self.value)


def proves(guarantee: Guarantee, *needs: Capability, family: str | None = None) -> Callable[[F], F]:
    """Mark a test of a kit, and give it a deadline, at which it fails and shows where its tasks wait.

    Args:
        guarantee: the guarantee that is broken if the test fails.
        needs: the capabilities without which the test is "not offered".
        family: the family of buses that the test is for; None: every family.
    """

    def mark(test: F) -> F:
        if inspect.iscoroutinefunction(test):
            test = _limited(test)
        test.guarantee = guarantee  # type: ignore[attr-defined]
        test.needs = needs  # type: ignore[attr-defined]
        test.family = family  # type: ignore[attr-defined]
        return test

    return mark


def _limited(test: F) -> F:
    @functools.wraps(test)
    async def limited(self: Contract, *args: Any, **fixtures: Any) -> None:
        await within(self.patience * DEADLINE, test(self, *args, **fixtures))

    return cast(F, limited)


class Contract:
    """Base of the kits."""

    offers: ClassVar[Collection[Capability] | None] = None
    """All capabilities that the plugin states. They are compared with what the plugin states at run time, so that no
    capability, and with it its tests, is lost by accident."""
    family: ClassVar[str] = "log"
    """The family of a bus: ``log`` or ``queue``."""
    patience: ClassVar[float] = 20.0
    """The seconds that a test waits for what must happen; increase it for a slow broker. A test ends after six times that."""

    @classmethod
    def kit(cls) -> type[Contract] | None:
        """Return the kit that a test class subclasses; None for the kits themselves."""
        if cls.__module__.split(".")[0] == "dimesh_contracts":
            return None
        return next(base for base in cls.__mro__ if base.__module__.split(".")[0] == "dimesh_contracts")

    @classmethod
    def names(cls) -> Iterator[str]:
        """Yield the names of the kit's tests."""
        for name in dir(cls):
            if hasattr(inspect.getattr_static(cls, name), "guarantee"):
                yield name

    @pytest.fixture(autouse=True)
    def _only_what_is_offered(self, request: pytest.FixtureRequest) -> None:
        assert self.offers is not None, (
            f"{type(self).__name__} does not say what it offers: set 'offers' to the plugin's capabilities"
        )
        be_patient(self.patience)
        wanted = getattr(request.function, "family", None)
        if wanted not in (None, self.family):
            pytest.skip(f"{NOT_OFFERED}it is a {self.family}")
        for capability in getattr(request.function, "needs", ()):
            if capability not in self.offers:
                pytest.skip(f"{NOT_OFFERED}{capability.value}")

    def check_offers(self, stated: Collection[Capability]) -> None:
        """Compare ``offers`` with what the plugin states."""
        said, does = set(self.offers or ()), {c for c in stated if c in stated}
        missing = sorted(c.value for c in does - said)
        wrong = sorted(c.value for c in said - does)
        assert not missing, f"the plugin states {missing}: add them to 'offers', so that they are tested"
        assert not wrong, f"'offers' names {wrong}, the plugin does not state them"
