"""What every change source must satisfy::

    class TestMine(CDCSourceContract):
        offers = {Capability.SNAPSHOT, Capability.STREAM, Capability.DELETES}

        @pytest.fixture
        def system(self, tmp_path):
            return MySystem(tmp_path)  # see System

        @pytest.fixture
        def new_source(self, system):
            return lambda: MySource(system.url)

A third party brings the source, and hands to change its system with (:mod:`dimesh_contracts.cdc.system`).
"""

from __future__ import annotations

from dimesh_contracts.cdc.descriptions import Descriptions
from dimesh_contracts.cdc.failures import Failures
from dimesh_contracts.cdc.guarantees import CDCGuarantee
from dimesh_contracts.cdc.harness import NewSource
from dimesh_contracts.cdc.samples import Samples
from dimesh_contracts.cdc.snapshots import Snapshots
from dimesh_contracts.cdc.streams import Streams
from dimesh_contracts.cdc.system import Expires, Forgets, KeepsRowsOnly, Refuses, System

__all__ = [
    "CDCGuarantee",
    "CDCSourceContract",
    "Expires",
    "Forgets",
    "KeepsRowsOnly",
    "NewSource",
    "Refuses",
    "System",
]


class CDCSourceContract(Descriptions, Snapshots, Streams, Samples, Failures):
    """All tests of the kit."""
