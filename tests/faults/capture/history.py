"""The changes that a consumer received, and those that it must receive."""

from __future__ import annotations

from typing import Any

from capture.stages import Stage
from dimesh import Event
from dimesh.cdc.events import GAP_TYPE, REPAIRED_TYPE


class History:
    """The changes that a consumer received, and those that it must receive."""

    def __init__(self, stage: Stage) -> None:
        self.rows: dict[str, str] = {}
        self.gaps = 0
        self.repaired = 0
        self.expected = 0
        self.missing: set[tuple[str, str | None]] = set()
        """The changes that were committed after the position was stored and that the stream has not delivered. A snapshot or
        repair that read their rows does not count: the stream delivers them after it, so that rows are older again for a moment.
        """
        self.sure = False
        """Whether a position is stored."""
        self.lost = False
        """Whether the system has dropped the position, and no gap has been published yet."""
        self._stage = stage
        self._delivered: set[tuple[str, str | None]] = set()
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
        key, name = self._stage.key_and_name(payload)
        change = (payload["operation"], key, payload["sequence"], name)
        assert self._by_id.setdefault(event.event_id, change) == change, "two changes have one id"
        lag = payload["lag"]["ours"]
        assert lag is None or lag >= 0
        if not payload["snapshot"]:
            self._delivered.add((key, name))
            self.missing.discard((key, name))
        if not self.lost:
            self.sure = True
        if payload["operation"] == "delete":
            self.rows.pop(key, None)
        elif name is not None:
            self.rows[key] = name

    @property
    def complete(self) -> bool:
        """Whether the stream delivered every expected change, and the rows are those of the system. As long as the system does not
        change, they stay so.
        """
        return not self.missing and self.rows == self._stage.rows()

    def differences(self) -> str:
        """Return what is missing and which rows differ from those of the system, with five examples of each."""
        missing = sorted(self.missing, key=str)
        truth = self._stage.rows()
        differ = [
            (key, self.rows.get(key), truth.get(key))
            for key in sorted({*self.rows, *truth})
            if self.rows.get(key) != truth.get(key)
        ]
        return (
            f"{len(missing)} changes are missing, such as {missing[:5]}; {len(differ)} rows differ, such as {differ[:5]}"
            " (key, the consumer's name, the system's name)"
        )

    @property
    def begun(self) -> bool:
        """Whether an event arrived, so that a position is stored."""
        return bool(self._by_id)

    def expect(self, key: str, name: str | None) -> None:
        """Expect a change that was committed."""
        self.expected += 1
        if getattr(self._stage, "only_rows", False):  # such a system shows the last state of a row only
            self.missing = {change for change in self.missing if change[0] != key}
        if (key, name) not in self._delivered:
            self.missing.add((key, name))

    def forget(self) -> None:
        """Expect none of the unread changes: the system has dropped them."""
        self.lost, self.sure = True, False
        self.missing.clear()
