"""The capabilities of the Kafka bus, as its tests declare them to the kits."""

from __future__ import annotations

from dimesh.capabilities import Capability

OFFERS = {
    Capability.DURABLE,
    Capability.POWER_SAFE,
    Capability.REPLAY,
    Capability.LOOK_BACK,
    Capability.START_BY_TIME,
    Capability.GROUPS,
    Capability.MULTI_PROCESS,
    Capability.KEY_ORDER,
    Capability.DURABLE_ATTEMPTS,
    Capability.DELAYED_DELIVERY,
    Capability.ATOMIC_STATE,
    Capability.TRANSACTIONS,
    Capability.COUNTED_LAG,
    Capability.SEGMENT_RETENTION,
    Capability.TOPIC_ADMIN,
}
