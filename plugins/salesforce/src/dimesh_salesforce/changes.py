"""Changes: those in the events of one org, and those that rows show which were read."""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import msgspec

from dimesh.clock import Clock
from dimesh.printable import printable
from dimesh.spi.cdc import Change, Gap, Operation
from dimesh_salesforce.credentials import Credentials
from dimesh_salesforce.events import EventReader, RefetchNeeded, entity_of
from dimesh_salesforce.fields import Fields, time_of
from dimesh_salesforce.lookups import Lookups, without_stamps
from dimesh_salesforce.options import SalesforceOptions
from dimesh_salesforce.relations import Relations
from dimesh_salesforce.rows import Row
from dimesh_salesforce.schemas import DecodingError, Schema, Schemas

log = logging.getLogger("dimesh.cdc.salesforce")

_encode_row: Final = msgspec.json.Encoder(order="deterministic").encode


def row_change(fields: Fields, read: Row, options: SalesforceOptions, clock: Clock) -> Change:
    """Return a row that was read as a change."""
    row = without_stamps(read)
    content = hashlib.blake2b(_encode_row(row), digest_size=10).hexdigest()
    moment = time_of(read.get(fields.stamp)) if fields.stamp is not None else None
    return Change(
        identity=f"{row['Id']}:{content}",
        operation=Operation.SNAPSHOT,
        object=fields.object,
        primary_key=fields.key(read),
        before=None,
        after=row,
        timestamp=moment or _now(clock),
        api_version=options.api_version,
    )


def delete_found(object: str, key: Mapping[str, Any], how: str, clock: Clock) -> Change:
    """Return the delete of a row that was found to be gone."""
    return Change(f"{key['Id']}:{how}", Operation.DELETE, object, dict(key), None, None, _now(clock))


def _now(clock: Clock) -> datetime:
    return datetime.fromtimestamp(clock.time(), UTC)


class PendingEvent(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """An event that arrived with a position, and must be returned first."""

    schema_id: str
    payload: bytes
    replay_id: bytes


class FieldsOf(Protocol):
    """Describes objects."""

    def __call__(self, object: str, refresh: bool = False) -> Awaitable[Fields]:
        """Return the fields of an object; described again if asked for."""
        ...


class Changes:
    """Reads events.

    Args:
        options: the options of the source.
        clock: time.
        credentials: the credentials of the org.
        schemas: the schemas of the events.
        fields_of: describes objects.
        lookups: reads rows that are not in the events.
        relations: the streams whose rows change when others are deleted.
    """

    def __init__(
        self,
        options: SalesforceOptions,
        clock: Clock,
        credentials: Credentials,
        schemas: Schemas,
        fields_of: FieldsOf,
        lookups: Lookups,
        relations: Relations,
    ) -> None:
        self._options = options
        self._clock = clock
        self._credentials = credentials
        self._schemas = schemas
        self._fields_of = fields_of
        self._lookups = lookups
        self._relations = relations
        self._readers: dict[tuple[str, str], EventReader] = {}
        """The readers of events, by the id of their schema and the object."""
        self._named: set[str] = set()
        """The objects whose hidden fields were logged."""
        self.repaired: deque[str] = deque(maxlen=1_000)
        """The names of gaps that were published: a repeat after a reconnect needs no second repair."""
        self.told_deletes: deque[str] = deque(maxlen=5_000)
        """The ids of the rows that events reported as deleted."""

    async def read(self, object: str, event: PendingEvent) -> tuple[str, Sequence[Change | Gap]]:
        """Return a stable name of an event, and the changes and gaps in it."""
        identity = event.replay_id.hex()
        if identity in self.repaired:
            return identity, ()
        try:
            schema = await self._schemas.get(event.schema_id)
            decoded = schema.decode(event.payload)
            reader = await self._reader(schema, entity_of(decoded))
            found = reader.read(decoded)
        except DecodingError as error:
            now = datetime.fromtimestamp(self._clock.time(), UTC)
            return identity, [Gap(object, str(error), until=now)]
        if isinstance(found, RefetchNeeded):
            return identity, await self._lookups.refetch(reader.fields, found)
        if isinstance(found, Gap):
            return identity, [found]
        if found and found[0].operation is Operation.DELETE:
            ids = [str(change.primary_key["Id"]) for change in found]
            self.told_deletes.extend(ids)
            self._relations.deleted(object, reader.fields, ids)
        return identity, found

    async def _reader(self, schema: Schema, name: str) -> EventReader:
        """Return the reader of events with a schema. A new one may have fields that were added since the object was described."""
        fields = await self._fields_of(name)
        reader = self._readers.get((schema.id, name))
        if reader is not None and reader.fields is fields:
            return reader
        if reader is None and any(field not in fields.known for field in schema.fields):
            fields = await self._fields_of(name, refresh=True)
        reader = EventReader(schema, fields, self._is_own, self._options.api_version)
        self._readers[schema.id, name] = reader
        if reader.hidden and name not in self._named:
            self._named.add(name)
            log.warning(
                "%s: the user may not see the fields %s: changes do not have them. Field-level security decides that",
                printable(name),
                printable(", ".join(reader.hidden)),
            )
        return reader

    def _is_own(self, user: str, origin: str) -> bool:
        session = self._credentials.current
        own = {id[:15] for id in (*self._options.own_users, session.user if session else "") if id}
        return user[:15] in own or any(text in origin for text in self._options.own_origins)
