"""What a bus on a broker promises beyond what every bus promises."""

from __future__ import annotations

from dimesh_contracts.contract import Guarantee


class BrokerGuarantee(Guarantee):
    """Promises of a bus backend that connects to a broker."""

    COMMANDS = "Every command that works on a bus works on the broker, from a process of its own."
    DOCTOR = (
        "The doctor tries what the bus needs of the broker, and reports each check under a name of its own."
    )
    NETWORK = (
        "Whatever happens to the network, nothing acknowledged is lost, each key keeps its order, and nothing is committed "
        "before it is handled."
    )
    MEMBERS = (
        "Members join and leave a group while events flow; nothing is lost, and each key keeps its order."
    )
    OUTBOUND = "A client of the broker that does not know dimesh reads an event as the CloudEvent that it is."
    INBOUND = "A CloudEvent that such a client publishes is handled, and leaves the mesh as it came."
