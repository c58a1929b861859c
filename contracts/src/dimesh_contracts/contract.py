"""What every kit is made of: a test proves guarantees, and asks for the capabilities that these rest on.

A third party subclasses a kit, states what its plugin offers, and gives it a fixture::

    class TestMine(BusBackendContract):
        offers = {Capability.GROUPS, Capability.REPLAY}

        @pytest.fixture
        def new_backend(self, tmp_path):
            return lambda: MyBackend(tmp_path)

A test whose capability is not offered is reported as "not offered"; one that is offered and does not hold fails. What a
subclass may not do is leave a test out: :mod:`dimesh_contracts.pytest_plugin` looks for that.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from enum import Enum
from typing import Any, ClassVar, TypeVar

import pytest

from dimesh.capabilities import Capability
from dimesh_contracts.waiting import be_patient

NOT_OFFERED = "not offered: "
"""How the reason of a skip begins that is none of the author's doing."""

F = TypeVar("F", bound=Callable[..., Any])


class Guarantee(Enum):
    """A promise, as one sentence. Each kind of plugin has an enumeration of its own."""

    @property
    def sentence(self) -> str:
        """The promise."""
        return str(self.value)


def proves(guarantee: Guarantee, *needs: Capability, family: str | None = None) -> Callable[[F], F]:
    """Marks a test of a kit.

    Args:
        guarantee: what is broken if the test fails.
        needs: the test is "not offered" unless all of these are.
        family: the test is for buses of this family only.
    """

    def mark(test: F) -> F:
        test.guarantee = guarantee  # type: ignore[attr-defined]
        test.needs = needs  # type: ignore[attr-defined]
        test.family = family  # type: ignore[attr-defined]
        return test

    return mark


class Contract:
    """Base of the kits."""

    offers: ClassVar[Collection[Capability] | None] = None
    """The capabilities that the plugin states, all of them. Compared with what it states at run time, so that none is
    lost, and with it its tests, by accident."""
    family: ClassVar[str] = "log"
    """Of a bus: ``log`` or ``queue``."""
    patience: ClassVar[float] = 20.0
    """Seconds to wait for what must come; more for a slow broker."""

    @classmethod
    def kit(cls) -> type[Contract] | None:
        """The kit that a test class subclasses; None for the kits themselves."""
        if cls.__module__.split(".")[0] == "dimesh_contracts":
            return None
        return next(base for base in cls.__mro__ if base.__module__.split(".")[0] == "dimesh_contracts")

    @classmethod
    def names(cls) -> Iterator[str]:
        """Names of the kit's tests."""
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
