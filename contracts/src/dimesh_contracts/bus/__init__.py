"""What every bus backend must satisfy::

    class TestMine(BusBackendContract):
        offers = {Capability.DURABLE, Capability.GROUPS, Capability.LOOK_BACK, Capability.KEY_ORDER}

        @pytest.fixture
        def new_backend(self, tmp_path):
            return lambda: MyBackend(tmp_path)

That is all for a backend in memory. More fixtures (:class:`~dimesh_contracts.bus.harness.BusHarness`) are there for backends that
another process can make (``factory``, needed for DURABLE), that work across processes (``driver``), or whose buffers can be
made small (``new_small_backend``).
"""

from __future__ import annotations

from dimesh_contracts.bus.connection import Connection, Hands, ProxyHands
from dimesh_contracts.bus.crashes import Crashes
from dimesh_contracts.bus.door import Forgeries
from dimesh_contracts.bus.engine import Engine
from dimesh_contracts.bus.flow import Flow
from dimesh_contracts.bus.groups import Groups
from dimesh_contracts.bus.guarantees import BusGuarantee
from dimesh_contracts.bus.harness import Factory, NewBackend
from dimesh_contracts.bus.instances import Instances
from dimesh_contracts.bus.leases import Leases
from dimesh_contracts.bus.leaving import Leaving
from dimesh_contracts.bus.members import Members
from dimesh_contracts.bus.model import AgainstTheReference
from dimesh_contracts.bus.publishing import Publishing
from dimesh_contracts.bus.schemas import WrittenSchemas
from dimesh_contracts.bus.slow import SlowHandlers
from dimesh_contracts.bus.storage import Storage
from dimesh_contracts.bus.subscribing import Subscribing

__all__ = ["BusBackendContract", "BusGuarantee", "Factory", "Hands", "NewBackend", "ProxyHands"]


class BusBackendContract(
    Publishing,
    Subscribing,
    Groups,
    Members,
    Leases,
    Storage,
    Instances,
    Crashes,
    Connection,
    Engine,
    SlowHandlers,
    Leaving,
    Flow,
    Forgeries,
    WrittenSchemas,
    AgainstTheReference,
):
    """All tests of the kit."""
