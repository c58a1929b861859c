"""What every bus backend must satisfy::

    class TestMine(BusBackendContract):
        offers = {Capability.DURABLE, Capability.GROUPS, Capability.LOOK_BACK, Capability.KEY_ORDER}

        @pytest.fixture
        def new_backend(self, tmp_path):
            return lambda: MyBackend(tmp_path)

That is all; more fixtures (:class:`~dimesh_contracts.bus.harness.BusHarness`) are there for backends that work across
processes (``driver``) or whose buffers can be made small (``new_small_backend``).
"""

from __future__ import annotations

from dimesh_contracts.bus.engine import Engine
from dimesh_contracts.bus.groups import Groups
from dimesh_contracts.bus.guarantees import BusGuarantee
from dimesh_contracts.bus.harness import NewBackend
from dimesh_contracts.bus.leases import Leases
from dimesh_contracts.bus.model import AgainstTheReference
from dimesh_contracts.bus.publishing import Publishing
from dimesh_contracts.bus.storage import Storage
from dimesh_contracts.bus.subscribing import Subscribing

__all__ = ["BusBackendContract", "BusGuarantee", "NewBackend"]


class BusBackendContract(Publishing, Subscribing, Groups, Leases, Storage, Engine, AgainstTheReference):
    """All tests of the kit."""
