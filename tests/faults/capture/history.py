"""What a consumer saw of a system's changes, and what it must have seen."""

from __future__ import annotations

from typing import Any

from capture.stages import Stage
from dimesh import Event
from dimesh.cdc.events import GAP_TYPE, REPAIRED_TYPE


class History:
    """What a consumer saw, and what it must see."""

    def __init__(self, stage: Stage) -> None:
        self.rows: dict[str, str] = {}
        self.gaps = 0
        self.repaired = 0
        self.expected = 0
        self.missing: set[tuple[str, str | None]] = set()
        """Of the changes that were committed after the position was stored, those that did not come yet: each is to come by
        itself.
        """
        self.sure = False
        """The position is stored."""
        self.lost = False
        """The system has forgotten it, and this was not noticed yet."""
        self._stage = stage
        self._seen: set[tuple[str, str | None]] = set()
        self._by_id: dict[str, Any] = {}

    async def __call__(self, event: Event) -> None:
        payload, kind = event.payload, event.event_type.value
        if kind == GAP_TYPE:
            self.gaps += 1
            self.lost = self.sure = False
        elif kind == REPAIRED_TYPE:
            self.repaired += 1
        if "operation" not in payload:
            return
        key, name = self._stage.seen(payload)
        said = (payload["operation"], key, payload["sequence"], name)
        assert self._by_id.setdefault(event.event_id, said) == said, "one id for two changes"
        lag = payload["lag"]["ours"]
        assert lag is None or lag >= 0
        self._seen.add((key, name))
        self.missing.discard((key, name))
        if not self.lost:
            self.sure = True
        if payload["operation"] == "delete":
            self.rows.pop(key, None)
        elif name is not None:
            self.rows[key] = name

    @property
    def begun(self) -> bool:
        """There was an event, so the position is stored."""
        return bool(self._by_id)

    def expect(self, key: str, name: str | None) -> None:
        """A change was committed that is to come."""
        self.expected += 1
        if (key, name) not in self._seen:
            self.missing.add((key, name))

    def forget(self) -> None:
        """What was not read yet cannot be any more."""
        self.lost, self.sure = True, False
        self.missing.clear()
