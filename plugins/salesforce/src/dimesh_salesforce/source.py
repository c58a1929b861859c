"""The Salesforce source: changes from the Pub/Sub API, rows by queries and Bulk API jobs.

A position is a replay id: opaque, valid for 72 hours, and a stream resumes *after* it. On a quiet topic the keep-alive
answers bring newer replay ids, so that a position does not grow old. The current position is what the first answer to a
new subscription brings, which on a quiet topic may take some minutes: nothing else shows that the subscription is
active.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, cast

import msgspec
from msgspec import structs

from dimesh.capabilities import Capabilities, Capability
from dimesh.clock import Clock
from dimesh.contact import report_delivered
from dimesh.errors import (
    SourceObjectError,
    SourcePositionLostError,
    SourceUnavailableError,
)
from dimesh.sourcekit.budget import Priority
from dimesh.sourcekit.http import SourceClient
from dimesh.sourcekit.positions import PositionCodec
from dimesh.spi.cdc import Change, ChangeBatch, CheckResult, Gap, Operation
from dimesh_salesforce import api
from dimesh_salesforce.changes import Changes, PendingEvent, delete_found, row_change
from dimesh_salesforce.checks import check
from dimesh_salesforce.client import Client, make_http
from dimesh_salesforce.credentials import Credentials
from dimesh_salesforce.deletes import Deletes
from dimesh_salesforce.descriptions import Descriptions
from dimesh_salesforce.fields import Fields
from dimesh_salesforce.limits import Limits, usage
from dimesh_salesforce.lookups import Lookups
from dimesh_salesforce.objects import is_polled, topic_of
from dimesh_salesforce.options import SalesforceOptions
from dimesh_salesforce.polling import Polling, relist_interval
from dimesh_salesforce.relations import Question, Relations
from dimesh_salesforce.rows import Place, Row, Rows
from dimesh_salesforce.schemas import Schemas
from dimesh_salesforce.streaming import Streaming

log = logging.getLogger("dimesh.cdc.salesforce")

_TRANSIT: Final = 1.0
"""The number of seconds that an answer may be under way. An empty answer means that there was no event when it was sent."""


class StreamPosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The position of a stream."""

    replay_id: bytes
    first: list[PendingEvent] = []
    types: str = ""
    """A digest of the types of the object's fields."""


class SnapshotPosition(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The position of a snapshot. The objects of a channel are read one after the other."""

    number: int
    place: Place


STREAM_POSITIONS: Final = PositionCodec(StreamPosition, "Salesforce")
SNAPSHOT_POSITIONS: Final = PositionCodec(SnapshotPosition, "Salesforce")


class SalesforceSource:
    """Reads one org; see :class:`dimesh.spi.cdc.CDCSource`. An object has its API name as its name, a channel its topic."""

    system = "salesforce"
    capabilities = Capabilities(
        Capability.SNAPSHOT, Capability.STREAM, Capability.DELETES, Capability.DESCRIBED
    )

    def __init__(self, options: SalesforceOptions, clock: Clock) -> None:
        self.options = options
        self._clock = clock
        self._http: SourceClient | None = None
        self._descriptions = Descriptions(self._describe)
        self._fields_of = self._descriptions.get
        self._types: dict[str, str] = {}
        """The digests of the types in the positions of the open streams, by object: each change up to them was reported."""
        self._answers: dict[tuple[str, bytes], list[Question]] = {}
        """The questions whose answers were returned, by object and position."""
        self._gaps: dict[tuple[str, bytes], str] = {}
        """The names of the gaps that were returned, by object and the position after the gap."""

    async def open(self) -> None:
        """Connect, and request an access token."""
        await self.close()
        self._http = make_http(self.options, self._clock)
        self._credentials = Credentials(self.options, self._clock, self._http)
        self._client = Client(self.options, self._http, self._credentials)
        self._rows = Rows(self.options, self._clock, self._client)
        self._deletes = Deletes(self._client, self._rows)
        self._lookups = Lookups(self._rows, self._deletes, self._clock, self.options.read_lag)
        self._relations = Relations(self._rows, self._clock, self.options.read_lag, self._fields_of)
        self._polling = Polling(
            self.options, self._clock, self._client, self._rows, self._lookups, self._fields_of
        )
        self._limits = Limits(self._client, self._clock)
        self.streaming = Streaming(self.options, self._clock, self._credentials)
        self._schemas = Schemas(self.streaming.schema)
        self._changes = Changes(
            self.options,
            self._clock,
            self._credentials,
            self._schemas,
            self._fields_of,
            self._lookups,
            self._relations,
        )
        try:
            await self._http.open()
            await self._credentials.session()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connections; may be called twice."""
        http, self._http = self._http, None
        if http is not None:
            await self._limits.close()
            await self.streaming.close()
            await http.close()

    async def check(self) -> CheckResult:
        """Check which objects can be captured, and what prevents the capture of the others."""
        return await check(self._client, self.streaming, self.options.channels)

    def account(self) -> dict[str, Any]:
        """Return how much of the org's quotas is used: API requests of the day, and events delivered in 24 hours."""
        used = self._client.used if self._http is not None else None
        budget = self._client.budget if self._http is not None else None
        return {
            "requests": budget.requests if budget is not None else 0,
            "requests_refused": budget.refused if budget is not None else 0,
            "requests_a_second": round(budget.rate, 2) if budget is not None else None,
            "requests_at_once": budget.concurrency if budget is not None else None,
            "budget_used": round(budget.used, 4) if budget is not None else None,
            "api_requests": used[0] if used else None,
            "api_requests_of_a_day": used[1] if used else None,
            **usage(
                self._limits if self._http is not None else None,
                self.streaming.deliveries.of_a_day if self._http is not None else 0,
                self.options.allocation,
            ),
            "streams_reopened": self.streaming.reopened if self._http is not None else 0,
        }

    async def schema(self, object: str) -> dict[str, Any] | None:
        """Return a JSON Schema of an object's rows; None for a channel."""
        # The objects of a channel are described again, too: that shows types that were converted.
        found = [await self._fields_of(name, refresh=True) for name in self._names(object)]
        return None if object in self.options.channels else found[0].schema()

    # -- the stream --------------------------------------------------------------------------------

    async def position(self, object: str) -> bytes:
        """Return the current position. On a quiet object this takes up to Salesforce's keep-alive interval: minutes."""
        types = await self._known_types(object)
        if is_polled(object):
            return await self._polling.position(await self._fields_of(object))
        answers = self.streaming.subscribe(topic_of(object), api.LATEST, ask=1)
        async with aclosing(cast(Any, answers)) as opened:
            async for response in opened:
                events = _pending(response)
                # Events in the first answer belong to the present: a stream from their replay ids would begin after them.
                replay_id = events[-1].replay_id if events else response.latest_replay_id
                return STREAM_POSITIONS.encode(StreamPosition(replay_id, events, types))
        raise SourceUnavailableError(f"the stream of {object} ended before it reported its position")

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        """Yield the changes after a position; see the SPI."""
        if is_polled(object):
            async for batch in self._polling.stream(await self._fields_of(object), position):
                yield batch
            return
        at = STREAM_POSITIONS.decode(position, object)
        names = self._names(object)
        types = self._types[object] = await self._known_types(object)
        if at.types and at.types != types and not self._descriptions.are_read(names):
            causes = self._descriptions.take_converted(names)
            cause = "; ".join(causes) or "the fields of the object changed while it was not captured"
            position = _with_types(position, object, types)
            yield ChangeBatch([Gap(object, cause)], position)
        self._relations.follow(object, names)
        async for batch, gap in self._all_batches(object, at, position):
            # While children of deleted rows are compared, a crash must repeat the deletes.
            if self._relations.holds(object):
                position = _with_types(position, object, self._types[object])
            else:
                position = batch.position
            if gap:
                self._gaps[object, position] = gap
            yield replace(batch, position=position)
            async for repair in self._children(object, position):
                yield repair

    async def _all_batches(
        self, object: str, at: StreamPosition, position: bytes
    ) -> AsyncIterator[tuple[ChangeBatch, str]]:
        """Yield the batches of a stream, and the name of the gap in each."""
        async for found in self._batches(object, at.first, position):
            yield found
        live = datetime.fromtimestamp(self._clock.time(), UTC)
        answers = self.streaming.subscribe(topic_of(object), api.CUSTOM, at.replay_id)
        busy = 0.0
        async with aclosing(cast(Any, answers)) as opened:
            async for response in opened:
                began = self._clock.monotonic()
                arrived = datetime.fromtimestamp(self._clock.time(), UTC)
                self._limits.refresh()
                causes = self._reread(object)
                self._types[object] = self._descriptions.digest(self._names(object))
                if causes:
                    # A stream that is opened at the position after the gap must not report the same types again.
                    position = _with_types(position, object, self._types[object])
                    yield ChangeBatch([Gap(object, "; ".join(causes))], position), ""
                async for found in self._batches(object, _pending(response), position, live, arrived):
                    yield found
                last = response.events[-1].replay_id if response.events else response.latest_replay_id
                position = self._mark(object, last)
                if not response.events:
                    yield ChangeBatch((), position), ""
                    # The answer may have waited while the batch before it was published.
                    report_delivered(arrived.timestamp() - _TRANSIT - busy)
                busy = self._clock.monotonic() - began

    def _reread(self, object: str) -> list[str]:
        """Return the reasons to read the rows of a stream again."""
        names = self._names(object)
        causes = self._descriptions.take_converted(names)
        for name in self._relations.reread.intersection(names):
            self._relations.reread.discard(name)
            causes.append(f"children in {name} of deleted rows could not be compared")
        return causes

    async def _children(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        """Yield the rows that changed since their parents were deleted or merged."""
        for question in self._relations.due(object):
            question.answered = True
            answer = await self._relations.answer(question)
            cause = f"rows of {question.parent.object} were deleted or merged: their children in {question.child} change"
            fields = await self._fields_of(question.child)
            repair = [self._row(fields, row) for row in answer.rows]
            new = [id for id in answer.deleted if id not in self._changes.told_deletes]
            repair += [delete_found(question.child, {"Id": id}, "with its parent", self._clock) for id in new]
            self._answers.setdefault((object, position), []).append(question)
            if answer.too_many:
                yield ChangeBatch([Gap(object, cause)], position)
            elif repair:
                yield ChangeBatch([Gap(object, cause, resnapshot=False, repair=repair)], position)
            else:
                yield ChangeBatch((), position)

    async def _batches(
        self,
        object: str,
        events: Sequence[PendingEvent],
        last: bytes,
        live: datetime | None = None,
        arrived: datetime | None = None,
    ) -> AsyncIterator[tuple[ChangeBatch, str]]:
        """Yield changes together, and each gap alone with its name: changes after a gap are published once its repair has begun.

        Salesforce held back a change that happened after the subscription (at ``live``) until it arrived; an earlier
        change waited for us.
        """
        changes: list[Change] = []
        for event in events:
            name, read = await self._changes.read(object, event)
            for found in read:
                if isinstance(found, Gap):
                    if changes:
                        yield await self._batch(changes, last), ""
                        changes = []
                    last = self._mark(object, event.replay_id)
                    yield ChangeBatch([found], last), name
                else:
                    held = live is not None and found.timestamp >= live
                    changes.append(replace(found, visible=arrived) if held else found)
            last = self._mark(object, event.replay_id)
        if changes:
            yield await self._batch(changes, last), ""

    async def _batch(self, changes: Sequence[Change], position: bytes) -> ChangeBatch:
        if self.options.read_derived:
            for name in dict.fromkeys(change.object for change in changes if change.not_current):
                changes = await self._lookups.refresh(await self._fields_of(name), changes)
        return ChangeBatch(changes, position)

    def _mark(self, object: str, replay_id: bytes) -> bytes:
        return STREAM_POSITIONS.encode(StreamPosition(replay_id, [], self._types[object]))

    async def _known_types(self, object: str) -> str:
        """Return a digest of the types of all fields in a stream."""
        self._check_name(object)
        for name in self._names(object):
            await self._fields_of(name)
        return self._descriptions.digest(self._names(object))

    def _names(self, object: str) -> Sequence[str]:
        return self.options.channels.get(object) or [object]

    # -- snapshots ---------------------------------------------------------------------------------

    async def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        """Yield the current rows; see the SPI."""
        names = self._names(object)
        at = SNAPSHOT_POSITIONS.decode(resume, object) if resume else None
        for number in range(at.number if at is not None else 0, len(names)):
            place = at.place if at is not None and at.number == number else None
            if place is not None and place.done:
                continue
            if place is None:
                fields = await self._descriptions.begin_reading(names[number])
            else:
                fields = await self._fields_of(names[number], refresh=True)
            read = self._polling.by_parent if fields.by_parent else self._rows.read
            async for rows, after in read(fields, place):
                yield ChangeBatch(
                    [self._row(fields, row) for row in rows],
                    SNAPSHOT_POSITIONS.encode(SnapshotPosition(number, after)),
                    after.total if len(names) == 1 else None,
                )

    def _row(self, fields: Fields, read: Row) -> Change:
        return row_change(fields, read, self.options, self._clock)

    def relist_interval(self, object: str) -> float | None:
        """Return the interval at which all rows are listed again; see :class:`dimesh.spi.cdc.Relists`."""
        return relist_interval(object, self.options)

    changed_at = "LastModifiedDate"

    @property
    def feed_lag(self) -> float:
        """The option of this name."""
        return self.options.feed_lag

    async def rows_after(
        self, object: str, key: Mapping[str, Any] | None, limit: int
    ) -> Sequence[Change] | None:
        """Return rows in the order of their ids; see :class:`dimesh.spi.cdc.SamplesRows`."""
        if object in self.options.channels:
            return None  # it has no rows of its own
        fields = await self._fields_of(object)
        if fields.by_parent:
            return None
        rows = await self._rows.after(fields, str(key["Id"]) if key is not None else None, limit)
        return [self._row(fields, row) for row in rows] if rows is not None else None

    async def not_current(self, object: str) -> Mapping[str, str]:
        """Return the fields that the schema of the object's events lacks; see :class:`dimesh.spi.cdc.LeavesOutFields`."""
        if object in self.options.channels or is_polled(object):
            return {}
        fields = await self._fields_of(object)
        topic = await self.streaming.topic(topic_of(object))
        schema = await self._schemas.get(topic.schema_id)
        told = {column for field in schema.fields for column in fields.columns(field)} - fields.contact_half
        return {
            name: "change events leave it out" for name in fields.types if name not in told and name != "Id"
        }

    @property
    def read_lag(self) -> float:
        """The option of this name."""
        return self.options.read_lag

    async def read_rows(self, object: str, keys: Sequence[Mapping[str, Any]]) -> Sequence[Change | None]:
        """Return the current rows; see :class:`dimesh.spi.cdc.ReadsRows`."""
        fields = await self._fields_of(object)
        polled = await self._polling.read_rows(fields, keys)
        if polled is not None:
            return polled
        ids = [str(key["Id"]) for key in keys]
        found = await self._lookups.find(fields, ids)
        return [
            self._row(fields, found.rows[id])
            if id in found.rows
            else delete_found(object, {"Id": id}, "deleted", self._clock)
            if id in found.deleted
            else None
            for id in ids
        ]

    async def deleted(self, object: str, since: datetime | None) -> AsyncIterator[ChangeBatch]:
        """Yield the deletes of about the last 15 days; see :class:`dimesh.spi.cdc.DeletionLog`."""
        for name in self._names(object):
            log = await self._deletes.all_of(await self._fields_of(name))
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
                    for id, when in log.rows.items()
                ],
                b"",
            )
            if not log.covers(since):
                kept = "does not exist" if log.since is None else f"begins at {log.since.isoformat()}"
                raise SourcePositionLostError(
                    f"Salesforce's log of the deletes of {name} {kept}: earlier deletes are not known"
                )

    async def acknowledge(self, object: str, position: bytes) -> None:
        """Remember a gap that was published, so that it is not reported twice."""
        for question in self._answers.pop((object, position), ()):
            self._relations.finish(question)
        name = self._gaps.pop((object, position), None)
        if name is not None:
            self._changes.repaired.append(name)

    # -- objects -----------------------------------------------------------------------------------

    async def _describe(self, object: str) -> Fields:
        return await self._rows.describe(object, Priority.STREAM)

    def _check_name(self, object: str) -> None:
        """Raise unless the object may have that name."""
        if object.startswith("/data/") and object not in self.options.channels:
            raise SourceObjectError(
                f"list the objects of {object!r:.80} in the option channels, for its snapshot: "
                f'channels = {{"{object:.80}" = ["Account", …]}}'
            )


def _pending(response: Any) -> list[PendingEvent]:
    return [
        PendingEvent(event.event.schema_id, event.event.payload, event.replay_id) for event in response.events
    ]


def _with_types(position: bytes, object: str, types: str) -> bytes:
    """Return the position in a stream with another digest of types."""
    at = STREAM_POSITIONS.decode(position, object)
    return position if at.types == types else STREAM_POSITIONS.encode(structs.replace(at, types=types))
