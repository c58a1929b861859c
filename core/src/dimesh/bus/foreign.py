"""Records that are not events: JSON that another program wrote without CloudEvents attributes, read as events by a rule."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from dimesh.errors import CodecError, ConfigurationError, DimeshError
from dimesh.events import strictjson
from dimesh.events.event import Event, restore
from dimesh.events.metadata import EventMetadata
from dimesh.events.names import check_type
from dimesh.spi.bus import Delivery, Record, RefusedRecord

_FIELD: Final = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class ForeignRecords:
    """How a subscription reads records that are not events, instead of dead-lettering them.

    A value is a text in which ``{field}`` or ``{outer.inner}`` stands for a field of the JSON object that is the record's
    value: ``ForeignRecords("order.{kind}", event_id="{id}")``. A record for which this is not possible is dead-lettered with
    the reason. The payload is the value, byte for byte, and the ordering key stays.

    Raises:
        ConfigurationError: a value is empty, or has a brace without its counterpart.
    """

    event_type: str
    pillar: str = ""
    agent: str = ""
    event_id: str | None = None
    """None: ``topic/partition/offset``, which is the same each time that the record is read."""
    tombstone_type: str | None = "record.deleted"
    """The type of the event that stands for a record without a value, by which compacted topics delete a key; its payload is
    null, and the key is in its header ``key``. None: such records are dead-lettered, too."""

    def __post_init__(self) -> None:
        if not self.event_type or self.event_id == "" or self.tombstone_type == "":
            raise ConfigurationError(
                "event_type, event_id and tombstone_type of foreign records must not be empty"
            )
        for text in (self.event_type, self.pillar, self.agent, self.event_id or ""):
            if "{" in _FIELD.sub("", text) or "}" in _FIELD.sub("", text) or "{}" in text:
                raise ConfigurationError(f"{text!r}: write a field as {{name}} or {{outer.inner}}")

    def read(self, topic: str, delivery: Delivery) -> Delivery:
        """Return the delivery with a record that is an event, or that says why it is not one."""
        record = delivery.record
        try:
            record.event  # noqa: B018 - decoded once, and kept
        except CodecError:
            try:
                event = self._event(topic, delivery)
            except DimeshError as error:
                again: Record = RefusedRecord.of(
                    record.header, record.payload, record.key, f"it cannot be read: {error}"
                )
            else:
                again = Record.of(event, record.key)
            return Delivery(again, delivery.partition, delivery.offset, delivery.timestamp, delivery.token)
        return delivery

    def _event(self, topic: str, delivery: Delivery) -> Event:
        record = delivery.record
        tombstone = isinstance(record, RefusedRecord) and record.tombstone
        headers: dict[str, str | bytes] = {}
        if not tombstone:
            data, value = record.payload, strictjson.loads(record.payload)
            kind = self.event_type
        elif self.tombstone_type is None:
            raise CodecError("it has no value (a tombstone), and there is no type for such records")
        else:
            data, value, kind = b"null", None, self.tombstone_type
            headers["key"] = record.key
        own = f"{topic}/{delivery.partition}/{delivery.offset}"
        event_id = own if tombstone or self.event_id is None else _filled(self.event_id, value)
        metadata = EventMetadata(
            event_id=event_id,
            timestamp=datetime.fromtimestamp(delivery.timestamp, UTC),
            source_pillar=self.pillar if tombstone else _filled(self.pillar, value),
            source_agent=self.agent if tombstone else _filled(self.agent, value),
        )
        event = restore(check_type(_filled(kind, value)), metadata, data)
        return event.replace(headers=headers) if headers else event


def _filled(text: str, value: Any) -> str:
    """Replace the fields in a rule.

    Raises:
        CodecError: the value has no such field, or the field is neither text nor a whole number.
    """

    def field(found: re.Match[str]) -> str:
        at = value
        for name in found[1].split("."):
            if not isinstance(at, dict) or name not in at:
                raise CodecError(f"its JSON has no field {found[1]!r}")
            at = at[name]
        if isinstance(at, bool) or not isinstance(at, (str, int)):
            raise CodecError(f"its field {found[1]!r} is neither text nor a whole number")
        return str(at)

    return _FIELD.sub(field, text)
