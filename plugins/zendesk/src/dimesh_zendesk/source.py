"""The Zendesk source: the exports, the lists, and what hangs below their rows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, cast

from dimesh.capabilities import Capabilities, Capability, Support
from dimesh.clock import Clock
from dimesh.contact import report_delivered
from dimesh.errors import ConfigurationError, SourcePositionLostError
from dimesh.sourcekit.budget import Priority
from dimesh.spi.cdc import Change, ChangeBatch, CheckResult
from dimesh_zendesk.catalogue import RESOURCES, Resource, Way, resource_of
from dimesh_zendesk.changes import SCRUB_SLACK
from dimesh_zendesk.checks import check
from dimesh_zendesk.children import ChildReader
from dimesh_zendesk.client import Client
from dimesh_zendesk.descriptions import schema
from dimesh_zendesk.exports import Export, Tombstones
from dimesh_zendesk.late import LateList
from dimesh_zendesk.lists import Lists
from dimesh_zendesk.options import ZendeskOptions
from dimesh_zendesk.timed import TimedExport
from dimesh_zendesk.waiting import Bells
from dimesh_zendesk.watch import Watches
from dimesh_zendesk.webhooks import TRIGGERED, WebhookReceiver

if TYPE_CHECKING:
    from starlette.applications import Starlette

_IDLE: Final = 60.0
_PREFIX: Final = "zen:event-type:"


class ZendeskSource:
    """Reads one account; see :class:`dimesh.spi.cdc.CDCSource`."""

    system = "zendesk"
    capabilities = Capabilities(
        Capability.SNAPSHOT,
        Capability.STREAM,
        Capability.DELETES,
        Capability.DESCRIBED,
        before_image=Support.PARTIAL,
        notes={
            Capability.BEFORE_IMAGE: "tickets only, with the option history; other rows have the stored state",
            Capability.DELETES: "not those of rows below tickets and users, tags, and lists that expire",
        },
    )

    def __init__(self, options: ZendeskOptions, clock: Clock) -> None:
        self.options = options
        self.read_lag = options.read_lag
        self._clock = clock
        self._client = Client(options, clock)
        self._watches = Watches(options, clock, self._client)
        self._lists = Lists(self._client)
        self._bells = Bells(clock, options.hold_back)
        self._tombstones: dict[str, Tombstones] = {}

    async def open(self) -> None:
        """Connect, and check the credentials."""
        await self._client.open()
        try:
            await self._client.get("users/me.json", {}, Priority.CHECK, "the user of the credentials")
        except BaseException:
            await self._client.close()
            raise

    async def close(self) -> None:
        """Close the connections; may be called twice."""
        await self._client.close()

    async def check(self) -> CheckResult:
        """Check what the user may read, and name missing permissions."""
        return await check(self._client, self._watches)

    def account(self) -> dict[str, Any]:
        """Return the usage of the budgets by this process."""
        return dict(self._client.waiting())

    async def schema(self, object: str) -> dict[str, Any] | None:
        """Return a JSON Schema of an object's rows; sends no request."""
        return schema(resource_of(object).name)

    def hint(self, kind: str) -> None:
        """Read what an event of this kind concerns as soon as Zendesk shows it: a webhook reported one."""
        part = "ticket" if kind == TRIGGERED else kind.removeprefix(_PREFIX).partition(".")[0]
        self._bells.ring(lambda name: bool(part) and RESOURCES[name].events == part)

    def webhooks(self, hint: Callable[[str], object], path: str) -> Starlette:
        """Return the ASGI application that receives webhooks; see :class:`dimesh.spi.cdc.WebhookSource`."""
        if not self.options.webhook_secrets:
            raise ConfigurationError(
                "webhooks need the option webhook_secrets, with the signing secret of the webhook",
                subject="source 'zendesk'",
            )
        secrets = [secret.reveal() for secret in self.options.webhook_secrets]
        return WebhookReceiver(hint, secrets, clock=self._clock).app(path)

    async def position(self, object: str) -> bytes:
        """Return the current position; see the SPI."""
        resource = resource_of(object)
        match resource.way:
            case Way.LISTED:
                return await self._lists.position(resource)
            case Way.TIMED:
                return await self._timed(resource).position()
            case Way.LATE:
                return await self._late(resource).position()
        return await self._export(resource).position()

    async def snapshot(self, object: str, resume: bytes | None) -> AsyncIterator[ChangeBatch]:
        """Yield the current rows; see the SPI."""
        resource = resource_of(object)
        batches: AsyncIterator[ChangeBatch]
        if resource.way is Way.LISTED or resource.all:
            batches = self._lists.snapshot(resource, resume)
        elif resource.way is Way.TIMED:
            batches = self._timed(resource).snapshot(resume)
        elif resource.way is Way.LATE:
            batches = self._late(resource).snapshot(resume)
        else:
            gone = self._tombstones.setdefault(object, Tombstones())
            batches = self._export(resource).snapshot(resume, gone, self._children(resource))
        async with aclosing(cast(Any, batches)) as opened:
            async for batch in opened:
                yield batch

    async def stream(self, object: str, position: bytes) -> AsyncIterator[ChangeBatch]:
        """Yield the changes after a position; see the SPI."""
        resource = resource_of(object)
        bell = self._bells.of(object, held_back=resource.way is not Way.LATE)
        batches: AsyncIterator[ChangeBatch]
        match resource.way:
            case Way.LISTED:
                self._lists.begin(resource, position)
                while True:  # nothing reports changes: the rows are listed again
                    report_delivered(0.0)
                    await bell.wait(_IDLE)
            case Way.TIMED:
                batches = self._timed(resource).stream(position, bell)
            case Way.LATE:
                batches = self._late(resource).stream(position, bell)
            case _:
                batches = self._export(resource).stream(position, bell, self._children(resource))
        async with aclosing(cast(Any, batches)) as opened:
            async for batch in opened:
                yield batch

    def _export(self, resource: Resource) -> Export:
        parent = RESOURCES[resource.parent] if resource.parent else resource
        return Export(self.options, self._clock, self._client, parent, resource, self._watches)

    def _timed(self, resource: Resource) -> TimedExport:
        return TimedExport(self.options, self._clock, self._client, resource, self._watches)

    def _late(self, resource: Resource) -> LateList:
        return LateList(self.options, self._clock, self._client, resource)

    def _children(self, resource: Resource) -> ChildReader | None:
        return ChildReader(self._client, resource) if resource.way is Way.CHILD else None

    async def read_rows(self, object: str, keys: Sequence[Mapping[str, Any]]) -> Sequence[Change | None]:
        """Return the current rows; see :class:`dimesh.spi.cdc.ReadsRows`."""
        resource = resource_of(object)

        async def tombstones() -> set[int]:
            known = self._tombstones.setdefault(object, Tombstones())
            if not known.complete:  # another process began the snapshot
                known.ids, known.complete = await self._export(resource).tombstones(), True
            return known.ids

        return await self._lists.rows(resource, keys, tombstones)

    async def deleted(self, object: str, since: datetime | None) -> AsyncIterator[ChangeBatch]:
        """Yield the deletes that the export has a record of; see :class:`dimesh.spi.cdc.DeletionLog`."""
        resource = resource_of(object)
        if resource.way is not Way.CURSOR:
            raise SourcePositionLostError(
                f"Zendesk keeps no record of deleted {object}: deletes may be missing"
            )
        # The first tombstone of a ticket may lie behind its delete.
        begin = int(since.timestamp()) - SCRUB_SLACK if since is not None else 0
        async with aclosing(cast(Any, self._export(resource).deleted(max(begin, 0)))) as batches:
            async for batch in batches:
                yield batch

    def relist_interval(self, object: str) -> float | None:
        """Return the interval at which all rows are listed again; see :class:`dimesh.spi.cdc.Relists`."""
        return self.options.refresh if resource_of(object).way is Way.LISTED else None

    async def acknowledge(self, object: str, position: bytes) -> None:
        """Do nothing: Zendesk has nothing to clean up."""
