"""The Salesforce source: changes from the Pub/Sub API, rows by queries and Bulk API jobs.

A position is a replay id: opaque, good for 72 hours, and read again from *after* it. Of a topic on which nothing happens the
empty answers bring newer ones, so that a position does not grow old. The position of now is what the first answer to a new
subscription says, which on a quiet topic may take some minutes: nothing else tells that the subscription is active.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import httpx
import msgspec

from dimesh.capabilities import Capabilities, Capability
from dimesh.clock import Clock
from dimesh.errors import (
    CDCError,
    CredentialsError,
    SourceObjectError,
    SourcePositionLostError,
    SourceUnavailableError,
)
from dimesh.spi.budget import Urgency
from dimesh.spi.cdc import Change, ChangeBatch, CheckResult, Gap, Operation
from dimesh_salesforce import api
from dimesh_salesforce.client import Client
from dimesh_salesforce.credentials import Credentials
from dimesh_salesforce.events import Unread, entity_of, read
from dimesh_salesforce.fields import Fields, time_of
from dimesh_salesforce.limits import Limits, shown
from dimesh_salesforce.options import SalesforceOptions
from dimesh_salesforce.rows import Place, Row, Rows
from dimesh_salesforce.schemas import DecodingError, Schemas
from dimesh_salesforce.streaming import Streaming

_OBJECT: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,79}")
_ASK_AT_ONCE: Final = 8
_BIN: Final = timedelta(days=14, hours=23)
"""How far back deletes are asked for: Salesforce takes no time before its 15 days."""
_AHEAD: Final = timedelta(minutes=5)
"""By how much our clock may be behind."""
_UNTOLD: Final = ("SystemModstamp", "IsDeleted")
"""Fields of rows that events leave out: kept, they would be out of date."""


class Told(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """An event that came with a position, and is to be handed out first."""

    schema_id: str
    payload: bytes
    replay_id: bytes


class StreamPosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Where a stream stands."""

    replay_id: bytes
    first: list[Told] = []


class SnapshotPosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Where a snapshot stands: a channel's objects are read one after the other."""

    number: int
    place: Place


_encode = msgspec.json.Encoder().encode
_decode_stream = msgspec.json.Decoder(StreamPosition).decode
_decode_snapshot = msgspec.json.Decoder(SnapshotPosition).decode
_encode_row = msgspec.json.Encoder(order="deterministic").encode


class SalesforceSource:
    """See :class:`dimesh.spi.cdc.CDCSource`. An object is named by its API name; a channel by its topic."""

    system = "salesforce"
    capabilities = Capabilities(
        Capability.SNAPSHOT, Capability.STREAM, Capability.DELETES, Capability.DESCRIBED
    )

    def __init__(self, options: SalesforceOptions, clock: Clock) -> None:
        self.options = options
        self._clock = clock
        self._http: httpx.AsyncClient | None = None
        self._fields: dict[str, Fields] = {}
        self._described: set[str] = set()
        """Ids of schemas for which the fields were looked up."""
        self._gaps: dict[tuple[str, bytes], str] = {}
        """Gaps that were handed out, by object and the position after them."""
        self._repaired: deque[str] = deque(maxlen=1_000)
        """Gaps that are on the bus: one that comes again, after a reconnect, needs no second repair."""

    async def open(self) -> None:
        """See the SPI."""
        await self.close()
        self._http = httpx.AsyncClient(follow_redirects=False)
        self._credentials = Credentials(self.options, self._clock, self._http)
        self._client = Client(self.options, self._clock, self._http, self._credentials)
        self._rows = Rows(self.options, self._clock, self._client)
        self._limits = Limits(self._client, self._clock)
        self.streaming = Streaming(self.options, self._clock, self._credentials)
        self._schemas = Schemas(self.streaming.schema)
        try:
            await self._credentials.session()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See the SPI."""
        http, self._http = self._http, None
        if http is not None:
            await self._limits.close()
            await self.streaming.close()
            await http.aclose()
            self._client.budget.close()

    async def check(self) -> CheckResult:
        """Which objects tell their changes, and what stands in the way of the others."""
        problems: list[str] = []
        found: dict[str, str] = {}
        try:
            listed = await self._client.get(
                self._client.path("sobjects"), {}, Urgency.CHECK, "the list of objects"
            )
        except (CDCError, OSError) as error:
            return CheckResult(False, {}, [str(error)])
        names = {entry["name"] for entry in listed["sobjects"]}
        able = [
            entry["name"]
            for entry in listed["sobjects"]
            if entry.get("queryable") and _event_name(entry["name"]) in names
        ]
        gate = asyncio.Semaphore(_ASK_AT_ONCE)

        async def look(name: str) -> None:
            async with gate:
                try:
                    info = await self.streaming.topic(_topic(name))
                    found[name] = "" if info.can_subscribe else "the user may not subscribe to its changes"
                except (SourceObjectError, SourceUnavailableError) as error:
                    found[name] = str(error)

        try:
            await asyncio.gather(*(look(name) for name in [*able, *self.options.channels]))
        except CredentialsError as error:
            problems.append(str(error))
        return CheckResult(not problems, dict(sorted(found.items())), problems)

    def account(self) -> dict[str, Any]:
        """What of the org's allowances is used: API requests of the day, and events delivered in 24 hours."""
        used = self._client.used if self._http is not None else None
        return {
            "requests": self._client.budget.spent if self._http is not None else 0,
            "requests_refused": self._client.budget.refused if self._http is not None else 0,
            "requests_a_second": round(self._client.budget.rate, 2) if self._http is not None else None,
            "requests_at_once": self._client.budget.concurrency if self._http is not None else None,
            "api_requests": used[0] if used else None,
            "api_requests_of_a_day": used[1] if used else None,
            **shown(
                self._limits if self._http is not None else None,
                self.streaming.deliveries.of_a_day if self._http is not None else 0,
                self.options.allocation,
            ),
            "streams_reopened": self.streaming.reopened if self._http is not None else 0,
        }

    async def schema(self, object: str) -> dict[str, Any] | None:
        """A JSON Schema of an object's rows; None for a channel."""
        if object in self.options.channels:
            return None
        return (await self._described_as(object, anew=True)).schema()

    # -- the stream --------------------------------------------------------------------------------

    async def position(self, object: str) -> bytes:
        """See the SPI. May take as long as Salesforce's signs of life are apart: minutes, where nothing happens."""
        await self._known(object)
        answers = self.streaming.subscribe(_topic(object), api.LATEST, ask=1)
        async with aclosing(cast(Any, answers)) as opened:
            async for response in opened:
                told = [
                    Told(event.event.schema_id, event.event.payload, event.replay_id)
                    for event in response.events
                ]
                # What comes with the first answer is of now: a stream from its replay id would begin after it.
                return _encode(
                    StreamPosition(told[-1].replay_id if told else response.latest_replay_id, told)
                )
        raise SourceUnavailableError(f"the stream of {object} ended before it said where it is")

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        """See the SPI."""
        try:
            at = _decode_stream(position)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise SourcePositionLostError(
                f"the position of {object} is none of the Salesforce source's"
            ) from error
        await self._known(object)
        async for batch in self._batches(object, at.first):
            yield batch
        live = datetime.fromtimestamp(self._clock.time(), UTC)
        answers = self.streaming.subscribe(_topic(object), api.CUSTOM, at.replay_id)
        async with aclosing(cast(Any, answers)) as opened:
            async for response in opened:
                came = datetime.fromtimestamp(self._clock.time(), UTC)
                self._limits.look()
                if not response.events:
                    yield ChangeBatch((), _encode(StreamPosition(response.latest_replay_id)))
                    continue
                told = [
                    Told(event.event.schema_id, event.event.payload, event.replay_id)
                    for event in response.events
                ]
                async for batch in self._batches(object, told, live, came):
                    yield batch

    async def _batches(
        self,
        object: str,
        events: Sequence[Told],
        live: datetime | None = None,
        came: datetime | None = None,
    ) -> AsyncIterator[ChangeBatch]:
        """Changes together, and each gap by itself: what comes after it is published after its repair began.

        What changed after we listened (``live``) was held back by Salesforce until it came; what changed before waited for us.
        """
        changes: list[Change | Gap] = []
        last = b""
        for event in events:
            name, read = await self._read(object, event)
            for found in read:
                if isinstance(found, Gap):
                    if changes:
                        yield ChangeBatch(changes, _encode(StreamPosition(last)))
                        changes = []
                    position = _encode(StreamPosition(event.replay_id))
                    self._gaps[object, position] = name
                    yield ChangeBatch([found], position)
                else:
                    held = live is not None and found.timestamp >= live
                    changes.append(replace(found, visible=came) if held else found)
            last = event.replay_id
        if changes:
            yield ChangeBatch(changes, _encode(StreamPosition(last)))

    async def _read(self, object: str, event: Told) -> tuple[str, Sequence[Change | Gap]]:
        """What an event tells, and a name for it that stays the same."""
        identity = event.replay_id.hex()
        if identity in self._repaired:
            return identity, ()
        try:
            schema = await self._schemas.get(event.schema_id)
            decoded = schema.decode(event.payload)
            name = entity_of(decoded)
            fields = await self._described_as(name)
            if schema.id not in self._described:
                self._described.add(schema.id)
                if any(field not in fields.known for field in schema.fields):
                    fields = await self._described_as(name, anew=True)
            found = read(schema, decoded, fields, self._is_own, self.options.api_version)
        except DecodingError as error:
            now = datetime.fromtimestamp(self._clock.time(), UTC)
            return identity, [Gap(object, str(error), until=now)]
        if isinstance(found, Unread):
            return identity, await self._fetched(fields, found)
        return identity, found if isinstance(found, list) else [found]

    async def _fetched(self, fields: Fields, unread: Unread) -> Sequence[Change | Gap]:
        """Changes whose rows are as they are now."""
        ids = list(dict.fromkeys(change.primary_key["Id"] for change in unread.changes))
        rows = await self._rows.some(fields, ids)
        now = datetime.fromtimestamp(self._clock.time(), UTC)
        changes: list[Change] = []
        for change in unread.changes:
            row = rows.get(change.primary_key["Id"])
            if row is None:
                changes.append(replace(change, operation=Operation.DELETE, after=None))
            else:
                gone = change.operation is Operation.DELETE  # and is back again
                operation = Operation.UNDELETE if gone else change.operation
                changes.append(replace(change, operation=operation, after=_told(row), as_of=now))
        if not unread.is_gap:
            return changes
        moment = unread.changes[0].timestamp if unread.changes else None
        return [Gap(fields.object, unread.cause, moment, moment, resnapshot=False, repair=changes)]

    def _is_own(self, user: str, origin: str) -> bool:
        session = self._credentials.current
        own = {id[:15] for id in (*self.options.own_users, session.user if session else "") if id}
        return user[:15] in own or any(text in origin for text in self.options.own_origins)

    # -- snapshots ---------------------------------------------------------------------------------

    async def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        """See the SPI."""
        names = self.options.channels.get(object) or [object]
        at = _decode_snapshot(resume) if resume else None
        for number in range(at.number if at is not None else 0, len(names)):
            fields = await self._described_as(names[number], anew=True)
            place = at.place if at is not None and at.number == number else None
            if place is not None and place.done:
                continue
            async for rows, after in self._rows.read(fields, place):
                yield ChangeBatch(
                    [self._row(fields, row) for row in rows],
                    _encode(SnapshotPosition(number, after)),
                    after.total if len(names) == 1 else None,
                )

    def _row(self, fields: Fields, read: Row) -> Change:
        row = _told(read)
        content = hashlib.blake2b(_encode_row(row), digest_size=10).hexdigest()
        moment = time_of(read.get("SystemModstamp")) or datetime.fromtimestamp(self._clock.time(), UTC)
        return Change(
            identity=f"{row['Id']}:{content}",
            operation=Operation.SNAPSHOT,
            object=fields.object,
            primary_key={"Id": row["Id"]},
            before=None,
            after=row,
            timestamp=moment,
            api_version=self.options.api_version,
        )

    async def deleted(self, object: str) -> AsyncIterator[ChangeBatch]:
        """See :class:`dimesh.spi.cdc.DeletionLog`: of about 15 days."""
        now = datetime.fromtimestamp(self._clock.time(), UTC)
        since = now - _BIN
        for name in self.options.channels.get(object) or [object]:
            gone = await self._rows.deleted(name, since, now + _AHEAD)
            yield ChangeBatch(
                [
                    Change(
                        identity=f"{id}:deleted:{when.isoformat() if when else ''}",
                        operation=Operation.DELETE,
                        object=name,
                        primary_key={"Id": id},
                        before=None,
                        after=None,
                        timestamp=when or datetime.fromtimestamp(self._clock.time(), UTC),
                        api_version=self.options.api_version,
                    )
                    for id, when in gone.items()
                ],
                b"",
            )

    async def acknowledge(self, object: str, position: bytes) -> None:
        """See the SPI: a gap that is said need not be said again."""
        name = self._gaps.pop((object, position), None)
        if name is not None:
            self._repaired.append(name)

    # -- objects -----------------------------------------------------------------------------------

    async def _known(self, object: str) -> None:
        """Raise unless the object can be captured."""
        if object in self.options.channels:
            return
        if object.startswith("/data/"):
            raise SourceObjectError(
                f"say in the option channels which objects {object!r:.80} has, for its snapshot: "
                f'channels = {{"{object:.80}" = ["Account", …]}}'
            )
        await self._described_as(object)

    async def _described_as(self, object: str, anew: bool = False) -> Fields:
        if not _OBJECT.fullmatch(object):
            raise SourceObjectError(
                f"{object!r:.80} is no API name of an object, such as Account or Invoice__c"
            )
        found = self._fields.get(object)
        if found is None or anew:
            found = self._fields[object] = await self._rows.describe(object, Urgency.STREAM)
        return found


def _told(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in _UNTOLD}


def _event_name(object: str) -> str:
    return f"{object[:-3]}__ChangeEvent" if object.endswith("__c") else f"{object}ChangeEvent"


def _topic(object: str) -> str:
    return object if object.startswith("/data/") else f"/data/{_event_name(object)}"
