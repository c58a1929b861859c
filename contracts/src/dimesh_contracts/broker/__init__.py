"""What every bus backend on a broker must satisfy beyond the bus contract: commands, broken networks, other clients::

    class TestMyBroker(BrokerContract):
        offers = {Capability.DURABLE, Capability.GROUPS, Capability.LOOK_BACK}
        doctor_checks = {"encryption"}
        # Fixtures: new_backend, driver, proxy, new_proxied_backend and client

:class:`BrokerContract` is the whole suite. The fixtures are described where the tests use them.
"""

from __future__ import annotations

from dimesh_contracts.broker.commands import Commands
from dimesh_contracts.broker.guarantees import BrokerGuarantee
from dimesh_contracts.broker.interop import ForeignClient, ForeignMessage, Interop, Mode
from dimesh_contracts.broker.network import Network

__all__ = ["BrokerContract", "BrokerGuarantee", "ForeignClient", "ForeignMessage", "Mode"]


class BrokerContract(Commands, Network, Interop):
    """All tests of the suite."""
