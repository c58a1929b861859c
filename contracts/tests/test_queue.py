"""The smallest queue, on which the queue mutants are based, passes the kit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dimesh.capabilities import Capability
from dimesh_contracts.bus import BusBackendContract, NewBackend

sys.path.insert(0, str(Path(__file__).parent / "mutants"))

from queue_backend import LEASE, QueueBackend


class TestQueue(BusBackendContract):
    family = "queue"
    lease = LEASE
    patience = 10.0
    offers = {
        Capability.GROUPS,
        Capability.KEY_ORDER,
        Capability.LOOK_BACK,
        Capability.START_BY_TIME,
        Capability.AGE_RETENTION,
        Capability.TOPIC_ADMIN,
        Capability.NATIVE_LEASE,
        Capability.CONFIRMED_ACKS,
    }

    @pytest.fixture
    def new_backend(self) -> NewBackend:
        return QueueBackend
