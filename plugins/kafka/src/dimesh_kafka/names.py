"""Names that the bus uses in Kafka: consumer groups, and the topics that it keeps for itself."""

from __future__ import annotations


def group_id(group: str, topic: str) -> str:
    """Return the name of a group in Kafka.

    A group of the mesh belongs to one topic. A group that is used for several topics is several groups for the broker, so
    that a member that joins for one topic does not interrupt the reading of the others.
    """
    return f"{group}@{topic}"


class InternalTopics:
    """The names of the topics that the bus keeps for itself.

    Args:
        prefix: the option ``internal``.
    """

    def __init__(self, prefix: str) -> None:
        self.delayed = f"{prefix}.delayed"
        self.attempts = f"{prefix}.attempts"
        self.state = f"{prefix}.state"

    def __contains__(self, name: str) -> bool:
        """Return whether a topic belongs to the bus or to Kafka itself rather than to users."""
        return name.startswith("__") or name in (self.delayed, self.attempts, self.state)
