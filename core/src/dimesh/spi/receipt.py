"""What a publish gives back."""

from __future__ import annotations

import msgspec

from dimesh.spi.bus import Position


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """Proof that the backend took an event, as durably as it promises. Always true."""

    topic: str
    event_id: str
    position: Position | None = None
    """None where it is not known yet (delayed delivery), or the engine behind has none to give."""

    def __bool__(self) -> bool:
        return True
