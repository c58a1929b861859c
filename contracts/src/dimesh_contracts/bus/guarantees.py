"""What a bus promises. The sentences are quoted by the documentation, each with the tests behind it."""

from __future__ import annotations

from dimesh_contracts.contract import Guarantee


class BusGuarantee(Guarantee):
    """Promises of a bus backend, and of the engine on top of it."""

    STATED = "A backend states exactly the capabilities that it has."
    UNCHANGED = "Header, payload, ordering key and routing fields of an event arrive byte for byte as they were published."
    COMPLETE = "Every record of an acknowledged append is delivered: none is left out, first or last, small or large."
    REFUSED = "An append that is not acknowledged raises; what a full buffer refuses is not delivered later."
    PERMANENT = "What the backend never takes raises a permanent error; what may pass raises one that is not."
    POSITIONS = "Each record has a position of its own, greater than those before it in its partition, and none is used twice."
    WHOLE = "The records that one append adds to a partition become visible together, or not at all."
    KEY_ORDER = "Records of one ordering key are delivered in the order in which they were published."
    LATEST = "A subscription at LATEST gets everything that is published after it was made, and nothing from before."
    INDEPENDENT = "Subscriptions without a group, and different groups, each see everything and do not disturb each other."
    BOUNDED_RECEIVE = "A receive never returns more than was asked for."
    CANCELLATION = "A cancelled receive loses nothing, and a cancelled handler never counts as successful."
    CLOSED = "A closed subscription ends its waiting receive and delivers nothing more; closing again does nothing."
    NOTHING_LEFT = "A subscription that was closed leaves no task, connection or file behind."
    CAUGHT_UP = "A stream reports correctly whether a published record waits to be received."
    REPLAY = "Records can be read again from the earliest, and from any position."
    START_BY_TIME = "A subscription at a time starts with the first record accepted at or after that time."
    FILTER = (
        "A filter leaves out exactly what it does not want; what it leaves out does not hold up the group."
    )
    COMMIT = "What was committed is not delivered to the group again, and everything else is; a commit never moves back."
    AT_LEAST_ONCE = "What a member received and did not commit is delivered to the group again, whatever happened to the member."
    GROUP_SHARING = "Members of a group share the partitions: each has one owner, and another member takes over what one leaves."
    MEMBERSHIP = "A member keeps its partitions or deliveries while it lives, however long its handlers take."
    HANDOVER = "A partition goes to another member only after its owner has finished with it, or was evicted."
    FENCED = "A member that has lost a partition, for whatever reason, can no longer move its position."
    CHURN = "While members come and go under load, nothing is lost, and every key keeps its order."
    ATTEMPTS = "The count of failed attempts belongs to the group, and is kept as long as the backend states."
    SEEK = "A group without members can be moved to any position; one with members cannot."
    LAG = "A group's lag is the number of records that it has not committed."
    DELAYED = "A delayed record is delivered when it is due, neither early nor never."
    STATE = "A caller's state is stored together with its records."
    TRANSACTION = (
        "What a handler produces and the position of what it handled take effect together, or not at all."
    )
    DURABLE = "What was acknowledged is available to another instance over the same storage, with positions and order."
    CRASH = "What was acknowledged, committed or held back for later survives the death of the process at any moment."
    PROCESSES = "Several instances and processes publish to and consume from the same topics at once."
    RETENTION = "Retention removes the oldest records, and only as configured; a reader that it overtakes gets an error."
    ADMIN = "Topics are created, listed, changed and deleted; a deleted topic does not come back."
    LEASE = "A leased delivery goes to nobody else; what its member releases or leaves is delivered again."
    CONFIRMED = "A confirmed acknowledgement is final, and a lease that has lapsed cannot be acknowledged."
    CONNECTION = "A connection that breaks loses nothing, and what was confirmed before or after is true."
    REDELIVERY = "A handler that fails is called again with the same event, until it succeeds or the attempts are used up."
    REDELIVERED_LATER = "What is delivered again later reaches the group that failed, and no other; the events behind it go on."
    PAUSED = "A paused subscription handles nothing, keeps its partitions, and continues where it was."
    PATTERNS = "A subscription by pattern gets everything of each topic that matches, also of those that are created later."
    WRITER_SCHEMA = (
        "An event arrives with the version of the schema that it was written with, and is checked against it."
    )
    DEAD_LETTER = (
        "What cannot be handled becomes a dead letter that holds the original bytes, and holds up nobody."
    )
    ENGINE_HEADERS = "Headers that steer the bus are written by the engine alone: users cannot publish them, and do not see them."
    SENDERS_APART = "A sender that reuses the event id of another suppresses nothing but its own repeats."
    REDRIVE_FOR_ONE = "An event that is redriven reaches the group that failed, and no other."
    HANDLED_BEFORE_COMMIT = "The committed position never passes an event that is not handled."
    DRAIN = (
        "Closing waits for handlers, commits what they handled, and leaves the rest to be delivered again."
    )
    LEAVES = "Closing ends in time, whatever a handler or a stream does with its cancellation."
    REQUESTS = "A request is answered as often as it arrives, and handled once."
    BACK_PRESSURE = (
        "A slow consumer bounds what is held for it: a publisher waits or is refused, and nothing is dropped."
    )
    AS_THE_REFERENCE = "Whatever happens to it, the bus shows its users the same as the reference."
