"""What a publish gives back."""

from __future__ import annotations

from dimesh.spi.bus import Position


class Receipt:
    """Proof that the backend took an event, as durably as it promises. Always true.

    ``position`` is None where it is not known yet (delayed delivery) or the engine has none to give.
    """

    __slots__ = ("event_id", "position", "topic")

    def __init__(self, topic: str, event_id: str, position: Position | None) -> None:
        self.topic = topic
        self.event_id = event_id
        self.position = position

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Receipt):
            return NotImplemented
        return (self.topic, self.event_id, self.position) == (other.topic, other.event_id, other.position)

    def __hash__(self) -> int:
        return hash((self.topic, self.event_id, self.position))

    def __repr__(self) -> str:
        where = "later" if self.position is None else f"{self.position.partition}/{self.position.offset}"
        return f"<Receipt {self.topic} {where} {self.event_id}>"
