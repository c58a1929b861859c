"""What Salesforce still knows of deleted rows: the recycle bin, and the log of deletes (getDeleted).

https://developer.salesforce.com/docs/atlas.en-us.api.meta/api/sforce_api_calls_getdeleted.htm: the log goes back 15 days. A job
that runs every two hours trims it if it has grown too long, and an administrator can purge it. A start before that is refused
with ``INVALID_REPLICATION_DATE``: what was deleted earlier is not known any more. The start must precede the end by more than a
minute; more than 600,000 ids are refused; rows that the user may not see are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote

from dimesh.sourcekit.budget import Priority
from dimesh_salesforce.client import Client, QueryError
from dimesh_salesforce.fields import Fields, time_of
from dimesh_salesforce.rows import MAX_IDS, Row, Rows, id_list

_KEPT: Final = timedelta(days=14, hours=23)
"""How far back deletes are listed: Salesforce accepts no start before its 15 days."""
_MIN_SPAN: Final = timedelta(minutes=4)
"""The shortest time span that is divided or narrowed: each part must be longer than a minute."""
_MINUTE: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class DeleteLog:
    """The content of the log of deletes of one object."""

    rows: dict[str, datetime | None]
    """The ids of the deleted rows, with the time of each delete."""
    since: datetime | None
    """The time from which the log has every delete; None: Salesforce keeps no log of this object."""
    purged: bool = False
    """Whether the log was purged, so that it does not go back 15 days."""

    def covers(self, since: datetime | None) -> bool:
        """Return whether the log has every delete since a time; None: since it is kept at all."""
        if self.since is None:
            return False
        return not self.purged if since is None else self.since <= since


class Deletes:
    """Reads the deleted rows of one org."""

    def __init__(self, client: Client, rows: Rows) -> None:
        self._client = client
        self._rows = rows

    async def in_recycle_bin(self, fields: Fields, ids: Sequence[str]) -> set[str]:
        """Return those of the ids whose rows Salesforce says were deleted. Nothing is known of other rows that are not found:
        they may be purged, or not visible to the user.
        """
        found: set[str] = set()
        if "IsDeleted" not in fields.types:
            return found
        for begin in range(0, len(ids), MAX_IDS):
            part = ids[begin : begin + MAX_IDS]
            found |= {row["Id"] for row in await self._in_bin(fields, f"Id IN ({id_list(part)})")}
        return found

    async def _in_bin(self, fields: Fields, condition: str) -> list[Row]:
        select = ", ".join(name for name in ("Id", "SystemModstamp") if name in fields.types)
        text = f"SELECT {select} FROM {fields.object} WHERE IsDeleted = true AND {condition}"
        return await self._rows.query(text, fields.object, Priority.SNAPSHOT, "queryAll")

    async def all_of(self, fields: Fields) -> DeleteLog:
        """Return the rows of an object that were deleted in about the last 15 days: those of the log, and those in the
        recycle bin, which the log lacks where it was purged.
        """
        log = await self.log(fields)
        if not {"IsDeleted", "SystemModstamp"} <= fields.types.keys():
            return log
        moment = (self._now() - _KEPT).strftime("%Y-%m-%dT%H:%M:%SZ")
        binned = await self._in_bin(fields, f"SystemModstamp >= {moment}")
        rows = {row["Id"]: time_of(row.get("SystemModstamp")) for row in binned}
        return DeleteLog({**rows, **log.rows}, log.since, log.purged)

    async def log(self, fields: Fields) -> DeleteLog:
        """Return the log of deletes as far back as it goes."""
        if not fields.replicateable:
            return DeleteLog({}, None)
        until = self._now().replace(second=0, microsecond=0) + 2 * _MINUTE
        since, purged = until - _KEPT, False
        while True:
            try:
                rows, available = await self._between(fields.object, since, until)
                break
            except QueryError as error:
                if error.code not in ("INVALID_REPLICATION_DATE", "EXCEEDED_ID_LIMIT"):
                    raise
                if until - since < _MIN_SPAN:
                    return DeleteLog({}, until, True)
                since, purged = until - (until - since) / 4, True
        if purged and available is not None and available < since - _MINUTE:
            # Narrowing went past the end of what is left: the answer names that end.
            begin = available.replace(second=0, microsecond=0) + _MINUTE
            try:
                older, _ = await self._between(fields.object, begin, since + _MINUTE)
            except QueryError as error:
                if error.code not in ("INVALID_REPLICATION_DATE", "EXCEEDED_ID_LIMIT"):
                    raise
            else:
                rows, since = {**older, **rows}, begin
        return DeleteLog(rows, since, purged)

    async def _between(
        self, object: str, since: datetime, until: datetime
    ) -> tuple[dict[str, datetime | None], datetime | None]:
        """Return the deletes in a time span, and the time from which the log is kept."""
        path = self._client.path(f"sobjects/{quote(object, safe='')}/deleted/")
        span = {"start": since.isoformat(timespec="seconds"), "end": until.isoformat(timespec="seconds")}
        try:
            found = await self._client.get(path, span, Priority.SNAPSHOT, object)
        except QueryError as error:
            if error.code != "EXCEEDED_ID_LIMIT" or until - since < _MIN_SPAN:
                raise
            middle = since + (until - since) / 2
            # Salesforce drops the seconds: both halves cover one minute, so that nothing is lost.
            first, available = await self._between(object, since, middle + _MINUTE)
            return {**first, **(await self._between(object, middle, until))[0]}, available
        rows = {entry["id"]: time_of(entry.get("deletedDate")) for entry in found["deletedRecords"]}
        return rows, time_of(found.get("earliestDateAvailable"))

    def _now(self) -> datetime:
        """Return Salesforce's time: by a clock of ours that is wrong, the start would be before the 15 days."""
        return datetime.fromtimestamp(self._client.time(), UTC)
