"""What a bus promises. The sentences are quoted by the documentation, each with the tests behind it."""

from __future__ import annotations

from dimesh_contracts.contract import Guarantee


class BusGuarantee(Guarantee):
    """Promises of a bus backend, and of the engine on top of it."""

    STATED = "A backend states exactly the capabilities that it has."
    UNCHANGED = "Header, payload, ordering key and routing fields of an event arrive byte for byte as they were published."
    COMPLETE = "Every record of an acknowledged append is delivered: none is left out, first or last, small or large."
    REFUSED = "An append that is not acknowledged raises; what a full buffer refuses is not delivered later."
    POSITIONS = "Each record has a position of its own, greater than those before it in its partition, and none is used twice."
    KEY_ORDER = "Records of one ordering key are delivered in the order in which they were published."
    LATEST = "A subscription at LATEST gets everything that is published after it was made, and nothing from before."
    INDEPENDENT = "Subscriptions without a group, and different groups, each see everything and do not disturb each other."
    BOUNDED_RECEIVE = "A receive never gives more than it was asked for."
    CANCELLATION = "A cancelled receive loses nothing, and a cancelled handler never counts as success."
    CLOSED = "A closed subscription ends its waiting receive and delivers nothing more; closing again does nothing."
    CAUGHT_UP = "A stream says truly whether something published waits to be received."
    REPLAY = "Records can be read again from the earliest, and from any position."
    START_BY_TIME = "A subscription at a time begins with the first record taken at or after it."
    FILTER = "A filter leaves out what it does not want, and only that; what it leaves out does not hold up the group."
    COMMIT = (
        "What was committed does not come again to the group, what was not does; a commit never goes back."
    )
    AT_LEAST_ONCE = (
        "What a member received and did not commit comes again to the group, whatever became of the member."
    )
    GROUP_SHARING = (
        "Members of a group share the partitions: each has one owner, and what one leaves another takes over."
    )
    ATTEMPTS = (
        "The count of failed attempts belongs to the group, and survives what the backend lets survive."
    )
    SEEK = "A group without members can be moved to any position; one with members cannot."
    LAG = "A group's lag is the number of records that it has not committed."
    DELAYED = "A delayed record comes when it is due, not before, and not never."
    STATE = "A caller's state is stored together with its records."
    TRANSACTION = (
        "What a handler produces and the position of what it handled take effect together, or not at all."
    )
    DURABLE = (
        "What was acknowledged is there for another instance over the same storage, with positions and order."
    )
    PROCESSES = "Several instances and processes publish to and consume from the same topics at once."
    RETENTION = "Retention removes the oldest and only as configured; a reader that it overtakes is told."
    ADMIN = "Topics are made, listed, changed and removed; what was removed does not come back."
    LEASE = "What is leased to a member comes to nobody else; what it releases, or leaves, comes again."
    CONFIRMED = "A confirmed acknowledgement is final, and a lease that has lapsed cannot be acknowledged."
    REDELIVERY = "A handler that fails is called again with the same event, until it succeeds or the attempts are used up."
    DEAD_LETTER = (
        "What cannot be handled becomes a dead letter that holds the original bytes, and holds up nobody."
    )
    HANDLED_BEFORE_COMMIT = "The committed position never passes an event that is not handled."
    DRAIN = "Closing waits for handlers, commits what they did, and leaves the rest to come again."
    BACK_PRESSURE = (
        "A slow consumer bounds what is held for it: a publisher waits or is refused, and nothing is dropped."
    )
    AS_THE_REFERENCE = "Whatever is done to it, the bus shows its users what the reference does."
